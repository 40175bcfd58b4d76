package system

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// ResticSnapshot is what stock restic says about a backup.
type ResticSnapshot struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Hostname string    `json:"hostname"`
	Paths    []string  `json:"paths"`
	Tags     []string  `json:"tags"`
	Excludes []string  `json:"excludes"`
	Parent   string    `json:"parent"`
}

// ResticSnapshots lists the backups in the repository, as stock restic does.
func (s *System) ResticSnapshots(ctx context.Context, args ...string) ([]ResticSnapshot, error) {
	out, err := s.Run(ctx, "restic", append([]string{"snapshots", "--no-lock", "--json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var found []ResticSnapshot
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return nil, fmt.Errorf("reading restic's snapshots: %w", err)
	}
	return found, nil
}

// CephSnapshot is what the rbd command says about a snapshot.
type CephSnapshot struct {
	Name string
	// Time is when Ceph took it, to the second.
	Time time.Time
}

// CephSnapshots lists the snapshots of a volume's image, but for those in the
// trash.
func (s *System) CephSnapshots(ctx context.Context, v *lab.Volume) ([]CephSnapshot, error) {
	out, err := v.Ceph.Run(ctx, "rbd", "snap", "ls", "--format", "json", "--", v.Spec())
	if err != nil {
		return nil, err
	}
	var listed []struct {
		Name      string `json:"name"`
		Timestamp string `json:"timestamp"`
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return nil, fmt.Errorf("reading the snapshots of %s: %w", v.Image, err)
	}
	var found []CephSnapshot
	for _, snap := range listed {
		taken, err := time.ParseInLocation(time.ANSIC, snap.Timestamp, time.Local)
		if err != nil {
			return nil, fmt.Errorf("reading when %s was taken: %w", snap.Name, err)
		}
		found = append(found, CephSnapshot{Name: snap.Name, Time: taken})
	}
	return found, nil
}

// LastBackup is the annotation on a volume's claim, or empty.
func (s *System) LastBackup(ctx context.Context, v *lab.Volume) (string, error) {
	return s.annotation(ctx, backup.AnnotationLastBackup, "--namespace", v.Namespace, "pvc", v.Claim)
}

// LastStart is the annotation on a volume's PersistentVolume, or empty.
func (s *System) LastStart(ctx context.Context, v *lab.Volume) (string, error) {
	return s.annotation(ctx, backup.AnnotationLastStart, "pv", v.PV)
}

func (s *System) annotation(ctx context.Context, name string, object ...string) (string, error) {
	key := strings.ReplaceAll(backup.DefaultAnnotationPrefix+name, ".", `\.`)
	return s.Lab.Run(ctx, "kubectl", append([]string{"get", "-o", "jsonpath={.metadata.annotations." + key + "}"}, object...)...)
}

// SetLastBackup writes the annotation on a volume's claim, as another backup
// would.
func (s *System) SetLastBackup(ctx context.Context, v *lab.Volume, value string) error {
	_, err := s.Lab.Run(ctx, "kubectl", "annotate", "--overwrite", "--namespace", v.Namespace, "pvc", v.Claim,
		backup.DefaultAnnotationPrefix+backup.AnnotationLastBackup+"="+value)
	return err
}
