package main

import (
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// statusReport is `ammonite status` for programs.
type statusReport struct {
	Time time.Time `json:"time"`
	// Policy is the schedule's, the defaults if there is none.
	Policy    selection.Policy `json:"policy"`
	Scheduled bool             `json:"scheduled"`
	Notes     []string         `json:"notes,omitempty"`
	Counts    tally            `json:"counts"`
	Volumes   []volumeReport   `json:"volumes"`
}

// volumeReport is one volume of it.
type volumeReport struct {
	Namespace  string               `json:"namespace"`
	Claim      string               `json:"claim"`
	UID        string               `json:"uid,omitempty"`
	Created    time.Time            `json:"created"`
	PV         string               `json:"pv,omitempty"`
	Kind       backup.Kind          `json:"kind,omitempty"`
	ClusterID  string               `json:"clusterID,omitempty"`
	Pool       string               `json:"pool,omitempty"`
	SizeBytes  int64                `json:"sizeBytes,omitempty"`
	Wanted     bool                 `json:"wanted"`
	Rule       selection.Rule       `json:"rule"`
	State      selection.State      `json:"state"`
	Protection selection.Protection `json:"protection"`
	// Missed says that the volume is to be protected and is not.
	Missed      bool                `json:"missed"`
	Reason      string              `json:"reason"`
	Interval    selection.Setting   `json:"interval"`
	Grace       selection.Setting   `json:"grace"`
	LastBackup  time.Time           `json:"lastBackup,omitzero"`
	AgeSeconds  int64               `json:"ageSeconds,omitempty"`
	LastAttempt *attempt            `json:"lastAttempt,omitempty"`
	Failures    int                 `json:"failures"`
	Due         time.Time           `json:"due,omitzero"`
	Running     *runReport          `json:"running,omitempty"`
	Problems    []selection.Problem `json:"problems,omitempty"`
}

func (v survey) report(list []volume) statusReport {
	r := statusReport{
		Time: v.at, Policy: v.policy(), Scheduled: v.sweeps.scheduled, Notes: v.notes(),
		Counts: count(list), Volumes: make([]volumeReport, 0, len(list)),
	}
	for _, one := range list {
		r.Volumes = append(r.Volumes, one.report(v.at))
	}
	return r
}

func (one volume) report(now time.Time) volumeReport {
	r := volumeReport{
		Namespace: one.Claim.Namespace, Claim: one.Claim.Name, UID: one.Claim.UID, Created: one.Created,
		PV: one.PV, Kind: one.Kind, ClusterID: one.ClusterID, Pool: one.Pool, SizeBytes: one.SizeBytes,
		Wanted: one.Wanted, Rule: one.Rule, State: one.State, Protection: one.protection, Missed: one.protection.Missed(),
		Reason: one.Reason, Interval: one.Interval, Grace: one.Grace,
		LastBackup: one.LastBackup, Failures: one.Failures, Due: one.Due, Problems: one.Problems,
	}
	if !one.LastBackup.IsZero() {
		r.AgeSeconds = int64(now.Sub(one.LastBackup) / time.Second)
	}
	if !one.attempt.Time.IsZero() {
		r.LastAttempt = &one.attempt
	}
	if one.running != nil {
		running := one.running.report(now)
		r.Running = &running
	}
	return r
}
