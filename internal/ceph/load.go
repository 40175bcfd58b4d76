package ceph

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ceph/go-ceph/rados"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Load asks the monitors what the cluster has to do. They know it with a delay of
// a few seconds. It only reads, and needs no more than mon 'profile rbd'.
//
// What an operator has muted (`ceph health mute`) does not count, unless something
// is full: what writes would wait for ever. A pool that has come to its quota is
// no matter of the cluster's.
//
// Similar to:
//
//	ceph status
//	ceph health detail
func (c *Cluster) Load(ctx context.Context) (backup.Load, error) {
	return read(ctx, c, func(conn *rados.Conn) (backup.Load, error) {
		status, _, err := conn.MonCommand([]byte(`{"prefix":"status","format":"json"}`))
		if err != nil {
			return backup.Load{}, explainLoad(err)
		}
		health, _, err := conn.MonCommand([]byte(`{"prefix":"health","detail":"detail","format":"json"}`))
		if err != nil {
			return backup.Load{}, explainLoad(err)
		}
		return loadOf(status, health)
	})
}

func explainLoad(err error) error {
	return explain("asking Ceph's monitors how the cluster is", err)
}

// healthCheck is a check of Ceph's that does not pass.
type healthCheck struct {
	Summary struct {
		Message string `json:"message"`
		Count   int    `json:"count"`
	} `json:"summary"`
	Detail []struct {
		Message string `json:"message"`
	} `json:"detail"`
	Muted bool `json:"muted"`
}

// objects counts copies of objects in the map of placement groups. What is zero is
// left out.
type objects struct {
	Degraded       float64 `json:"degraded_objects"`
	DegradedTotal  float64 `json:"degraded_total"`
	Misplaced      float64 `json:"misplaced_objects"`
	MisplacedTotal float64 `json:"misplaced_total"`
}

// loadOf reads the answers to status and health detail.
func loadOf(status, health []byte) (backup.Load, error) {
	var state struct {
		Objects objects `json:"pgmap"`
	}
	if err := json.Unmarshal(status, &state); err != nil {
		return backup.Load{}, fmt.Errorf("reading Ceph's status: %w", err)
	}
	var report struct {
		Checks map[string]healthCheck `json:"checks"`
	}
	if err := json.Unmarshal(health, &report); err != nil {
		return backup.Load{}, fmt.Errorf("reading Ceph's health: %w", err)
	}
	load := backup.Load{Recovering: state.Objects.recovering()}
	for code, check := range report.Checks {
		switch code {
		case "OSD_FULL", "POOL_FULL":
			load.Full = append(load.Full, check.names()...)
		case "OSD_NEARFULL", "POOL_NEARFULL", "OSD_BACKFILLFULL", "POOL_BACKFILLFULL":
			if !check.Muted {
				load.NearFull = append(load.NearFull, check.names()...)
			}
		case "SLOW_OPS":
			if !check.Muted {
				load.SlowOps = check.number()
			}
		}
	}
	load.Full = unique(load.Full)
	load.NearFull = slices.DeleteFunc(unique(load.NearFull), func(name string) bool { return slices.Contains(load.Full, name) })
	return load, nil
}

// recovering is the part of the copies that are missing or misplaced.
func (o objects) recovering() float64 {
	part := func(n, of float64) float64 {
		if of <= 0 {
			return 0
		}
		return n / of
	}
	return min(1, part(o.Degraded, o.DegradedTotal)+part(o.Misplaced, o.MisplacedTotal))
}

// full is how details are put: "osd.0 is near full", "pool 'rbd' is full (no space)".
var full = regexp.MustCompile(`^(?:(osd\.\d+)|pool '(.+?)') is (.*)`)

// names returns what a check about space is about.
func (c healthCheck) names() []string {
	var names []string
	for _, d := range c.Detail {
		switch m := full.FindStringSubmatch(d.Message); {
		case m == nil:
		case strings.Contains(m[3], "quota"):
		case m[1] != "":
			names = append(names, m[1])
		default:
			names = append(names, "pool "+m[2])
		}
	}
	if len(c.Detail) == 0 {
		return []string{"the cluster"}
	}
	return names
}

// number returns the number that the summary begins with: "3 slow ops, oldest one
// blocked for 35 sec, osd.0 has slow ops". The count beside it is of something else
// in some releases.
func (c healthCheck) number() int {
	first, _, _ := strings.Cut(c.Summary.Message, " ")
	if n, err := strconv.Atoi(first); err == nil {
		return n
	}
	return max(1, c.Summary.Count)
}

func unique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
