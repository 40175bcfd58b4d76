package ceph

import (
	"context"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const serviceName = "Ceph"

// Call holds the arguments of any of Service's methods.
type Call struct {
	Volume   backup.Volume
	Source   backup.Source
	Image    backup.Image
	Name     string
	Snapshot backup.Snapshot
	Metadata map[string]string
	// Target is what a restore makes, Subvolume what it has made.
	Target    backup.Target
	Subvolume backup.Subvolume
	Count     int
	// Until is how long something is kept.
	Until time.Time
	// Predecessor is a remnant.
	Predecessor backup.PredecessorRemnant
}

// Answer is what a call returned.
type Answer[T any] struct {
	Value  T
	Failed backup.Message
}

// Service answers the calls of a Process by a Cluster, in the form that net/rpc
// asks for.
type Service struct{ cluster *Cluster }

// Calls are bounded by librados' own timeouts, so none needs a deadline.
var unbounded = context.Background()

// Inspect answers Process.Inspect.
func (s *Service) Inspect(c Call, a *Answer[backup.Volume]) error {
	v, err := s.cluster.Inspect(unbounded, c.Volume)
	*a = Answer[backup.Volume]{v, backup.MessageOf(err)}
	return nil
}

// EnsureSnapshot answers Process.EnsureSnapshot.
func (s *Service) EnsureSnapshot(c Call, a *Answer[backup.Snapshot]) error {
	snapshot, err := s.cluster.EnsureSnapshot(unbounded, c.Source, c.Name)
	*a = Answer[backup.Snapshot]{snapshot, backup.MessageOf(err)}
	return nil
}

// EnsureClone answers Process.EnsureClone.
func (s *Service) EnsureClone(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureClone(unbounded, c.Snapshot, c.Image, c.Metadata))
	return nil
}

// CheckTarget answers Process.CheckTarget.
func (s *Service) CheckTarget(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.CheckTarget(unbounded, c.Target))
	return nil
}

// EnsureTarget answers Process.EnsureTarget.
func (s *Service) EnsureTarget(c Call, a *Answer[backup.Image]) error {
	image, err := s.cluster.EnsureTarget(unbounded, c.Target, c.Metadata)
	*a = Answer[backup.Image]{image, backup.MessageOf(err)}
	return nil
}

// GiveTarget answers Process.GiveTarget.
func (s *Service) GiveTarget(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.GiveTarget(unbounded, c.Image, c.Name))
	return nil
}

// EnsureRestoredAbsent answers Process.EnsureRestoredAbsent.
func (s *Service) EnsureRestoredAbsent(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureRestoredAbsent(unbounded, c.Image))
	return nil
}

// EnsureSubvolume answers Process.EnsureSubvolume.
func (s *Service) EnsureSubvolume(c Call, a *Answer[backup.Subvolume]) error {
	made, err := s.cluster.EnsureSubvolume(unbounded, c.Target)
	*a = Answer[backup.Subvolume]{made, backup.MessageOf(err)}
	return nil
}

// GiveSubvolume answers Process.GiveSubvolume.
func (s *Service) GiveSubvolume(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.GiveSubvolume(unbounded, c.Subvolume))
	return nil
}

// EnsureUnfinishedAbsent answers Process.EnsureUnfinishedAbsent.
func (s *Service) EnsureUnfinishedAbsent(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureUnfinishedAbsent(unbounded, c.Subvolume, c.Name))
	return nil
}

// EnsureGivenAbsent answers Process.EnsureGivenAbsent.
func (s *Service) EnsureGivenAbsent(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureGivenAbsent(unbounded, c.Subvolume))
	return nil
}

// EnsureUndo answers Process.EnsureUndo.
func (s *Service) EnsureUndo(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureUndo(unbounded, c.Image, c.Name))
	return nil
}

// KeepUndo answers Process.KeepUndo.
func (s *Service) KeepUndo(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.KeepUndo(unbounded, c.Image, c.Name, c.Until))
	return nil
}

// RollBack answers Process.RollBack.
func (s *Service) RollBack(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.RollBack(unbounded, c.Image, c.Name))
	return nil
}

// CheckUnopened answers Process.CheckUnopened.
func (s *Service) CheckUnopened(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.CheckUnopened(unbounded, c.Image, c.Count))
	return nil
}

// EnsureUndoAbsent answers Process.EnsureUndoAbsent.
func (s *Service) EnsureUndoAbsent(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureUndoAbsent(unbounded, c.Image, c.Name))
	return nil
}

// Undos answers Process.Undos.
func (s *Service) Undos(c Call, a *Answer[[]backup.Undo]) error {
	undos, err := s.cluster.Undos(unbounded, c.Image)
	*a = Answer[[]backup.Undo]{undos, backup.MessageOf(err)}
	return nil
}

// AllUndos answers Process.AllUndos.
func (s *Service) AllUndos(_ Call, a *Answer[[]backup.KeptUndo]) error {
	found, err := s.cluster.AllUndos(unbounded)
	*a = Answer[[]backup.KeptUndo]{found, backup.MessageOf(err)}
	return nil
}

// Clones answers Process.Clones.
func (s *Service) Clones(c Call, a *Answer[[]backup.Image]) error {
	clones, err := s.cluster.Clones(unbounded, c.Image.Pool, c.Name)
	a.Failed = backup.MessageOf(err)
	for _, clone := range clones {
		a.Value = append(a.Value, clone.Image)
	}
	return nil
}

// EnsureCloneAbsent answers Process.EnsureCloneAbsent.
func (s *Service) EnsureCloneAbsent(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureCloneAbsent(unbounded, c.Image))
	return nil
}

// EnsureSnapshotAbsent answers Process.EnsureSnapshotAbsent.
func (s *Service) EnsureSnapshotAbsent(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.EnsureSnapshotAbsent(unbounded, c.Source, c.Name))
	return nil
}

// Remnants answers Process.Remnants.
func (s *Service) Remnants(_ Call, a *Answer[[]backup.Remnant]) error {
	found, err := s.cluster.Remnants(unbounded)
	*a = Answer[[]backup.Remnant]{found, backup.MessageOf(err)}
	return nil
}

// PredecessorRemnants answers Process.PredecessorRemnants.
func (s *Service) PredecessorRemnants(_ Call, a *Answer[[]backup.PredecessorRemnant]) error {
	found, err := s.cluster.PredecessorRemnants(unbounded)
	*a = Answer[[]backup.PredecessorRemnant]{found, backup.MessageOf(err)}
	return nil
}

// RemovePredecessorRemnant answers Process.RemovePredecessorRemnant.
func (s *Service) RemovePredecessorRemnant(c Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.RemovePredecessorRemnant(unbounded, c.Predecessor))
	return nil
}

// Load answers Process.Load.
func (s *Service) Load(_ Call, a *Answer[backup.Load]) error {
	load, err := s.cluster.Load(unbounded)
	*a = Answer[backup.Load]{load, backup.MessageOf(err)}
	return nil
}

// Ready answers Process.Ready.
func (s *Service) Ready(_ Call, a *Answer[bool]) error {
	a.Failed = backup.MessageOf(s.cluster.Ready(unbounded))
	return nil
}
