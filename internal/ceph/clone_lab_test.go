//go:build lab

package ceph

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// snapshotted makes an image with known data at its start, and a snapshot of it.
func (s *site) snapshotted(t *testing.T, namespace, run string) backup.Snapshot {
	t.Helper()
	image := s.create(t, namespace)
	i, release := s.open(t, image)
	_, err := i.WriteAt(content, 0)
	require.NoError(t, err)
	release()
	snapshot, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, backup.SnapshotName(run))
	require.NoError(t, err)
	return snapshot
}

var content = bytes.Repeat([]byte("ammonite"), 512)

func (s *site) requireContent(t *testing.T, clone backup.Image) {
	t.Helper()
	s.in(t, clone.Pool, clone.Namespace, func(io *rados.IOContext) {
		require.NoError(t, inImage(io, clone.Name, reading, func(i *rbd.Image) error {
			got := make([]byte, len(content))
			_, err := i.ReadAt(got, 0)
			require.Equal(t, content, got)
			return err
		}))
	})
}

func TestCloneIsMadeOnceAndRemovedOnce(t *testing.T) {
	s := newSite(t)
	for _, namespace := range []string{"", tenant} {
		run := uuid.NewString()
		snapshot := s.snapshotted(t, namespace, run)
		clone := backup.Image{Pool: s.scratch, Namespace: namespace, Name: backup.CloneName(run, 1)}

		for range 2 {
			require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
			s.requireContent(t, clone)
		}
		s.in(t, clone.Pool, clone.Namespace, func(io *rados.IOContext) {
			require.NoError(t, inImage(io, clone.Name, reading, func(i *rbd.Image) error {
				features, err := i.GetFeatures()
				require.EqualValues(t, rbd.FeatureLayering|rbd.FeatureOperations, features)
				return err
			}))
		})
		clones, err := s.Clones(t.Context(), s.scratch, run)
		require.NoError(t, err)
		require.Equal(t, []Clone{{Image: clone, Run: run, Attempt: 1, Metadata: metadata(run)}}, clones)

		for range 2 {
			require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
		}
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
		require.Empty(t, s.snapshots(t, snapshot.Image))
	}
}

func TestCloneInTheImagesOwnPool(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot := s.snapshotted(t, "", run)
	clone := backup.Image{Pool: s.source, Name: backup.CloneName(run, 3)}
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	s.requireContent(t, clone)
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
}

func TestCloneThatBrokeOffIsMadeAgain(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	halves := map[string]func(*testing.T, *rados.IOContext){
		"without a parent": func(t *testing.T, io *rados.IOContext) {
			options := rbd.NewRbdImageOptions()
			defer options.Destroy()
			require.NoError(t, rbd.CreateImage(io, clone.Name, imageSize, options))
		},
		"without a run": func(t *testing.T, io *rados.IOContext) {
			options, err := cloneOptions(clone.Pool)
			require.NoError(t, err)
			defer options.Destroy()
			s.in(t, s.source, "", func(source *rados.IOContext) {
				require.NoError(t, rbd.CloneImage(source, snapshot.Image.Name, snapshot.Name, io, clone.Name, options))
			})
		},
	}
	for name, half := range halves {
		t.Run(name, func(t *testing.T) {
			s.in(t, s.scratch, "", func(io *rados.IOContext) { half(t, io) })
			require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
			s.requireContent(t, clone)
			clones, err := s.Clones(t.Context(), s.scratch, "")
			require.NoError(t, err)
			require.Contains(t, clones, Clone{Image: clone, Run: run, Attempt: 1, Metadata: metadata(run)})
			require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
		})
	}
}

func TestConcurrentAttemptsConvergeToOneClone(t *testing.T) {
	s := newSite(t)
	s.crossing = crossing // as long as it takes on a busy machine
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			untilDone(t, func() error { return s.EnsureClone(t.Context(), snapshot, clone, metadata(run)) })
		})
	}
	all.Wait()
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	s.requireContent(t, clone)
	clones, err := s.Clones(t.Context(), s.scratch, run)
	require.NoError(t, err)
	require.Len(t, clones, 1)
	for range 6 {
		all.Go(func() {
			untilDone(t, func() error { return s.EnsureCloneAbsent(t.Context(), clone) })
		})
	}
	all.Wait()
	clones, err = s.Clones(t.Context(), s.scratch, run)
	require.NoError(t, err)
	require.Empty(t, clones)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	require.Empty(t, s.snapshots(t, snapshot.Image))
}

// untilDone repeats a step as Temporal would, as long as its failures are not
// final.
func untilDone(t *testing.T, step func() error) {
	for deadline := time.Now().Add(time.Minute); ; {
		err := step()
		if err == nil {
			return
		}
		if c := backup.ClassOf(err); c != "" && c != backup.NotReadyYet || time.Now().After(deadline) {
			t.Error(err)
			return
		}
		<-time.After(time.Duration(50+rand.IntN(200)) * time.Millisecond)
	}
}

// An attempt that was overtaken leaves a name without an image, and its clone in
// the snapshot's list.
func TestNameWithoutAnImageIsNotInTheWay(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	s.in(t, s.scratch, "", func(io *rados.IOContext) {
		id := make([]byte, 64)
		n, err := io.Read("rbd_id."+clone.Name, id, 0)
		require.NoError(t, err)
		require.NoError(t, io.Delete("rbd_header."+string(id[4:n])))
	})
	untilDone(t, func() error { return s.EnsureClone(t.Context(), snapshot, clone, metadata(run)) })
	s.requireContent(t, clone)
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
	clones, err := s.Clones(t.Context(), s.scratch, run)
	require.NoError(t, err)
	require.Empty(t, clones)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	require.Empty(t, s.snapshots(t, snapshot.Image))
}

// An attempt that is overtaken before it makes the header leaves that without a
// name.
func TestImageWithoutANameIsNotInTheWay(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	var header string
	s.in(t, s.scratch, "", func(io *rados.IOContext) {
		require.NoError(t, inImage(io, clone.Name, reading, func(i *rbd.Image) error {
			id, err := i.GetId()
			header = "rbd_header." + id
			return err
		}))
		directory, err := io.GetAllOmapValues("rbd_directory", "", "", 1000)
		require.NoError(t, err)
		for key, value := range directory {
			if strings.Contains(key, clone.Name) || bytes.Contains(value, []byte(clone.Name)) {
				require.NoError(t, io.RmOmapKeys("rbd_directory", []string{key}))
			}
		}
		require.NoError(t, io.Delete("rbd_id."+clone.Name))
	})
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	require.Empty(t, s.snapshots(t, snapshot.Image))
	s.in(t, s.scratch, "", func(io *rados.IOContext) {
		_, err := io.Stat(header)
		require.ErrorIs(t, err, rados.ErrNotFound)
	})
}

// A clone in the trash still needs its snapshot.
func TestCloneInTheTrashKeepsItsSnapshot(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	s.in(t, s.scratch, "", func(io *rados.IOContext) { require.NoError(t, rbd.GetImage(io, clone.Name).Trash(0)) })
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	s.in(t, s.scratch, "", func(io *rados.IOContext) {
		trash, err := rbd.GetTrashList(io)
		require.NoError(t, err)
		at := slices.IndexFunc(trash, func(i rbd.TrashInfo) bool { return i.Name == clone.Name })
		require.GreaterOrEqual(t, at, 0)
		require.NoError(t, rbd.TrashRestore(io, trash[at].Id, clone.Name))
	})
	s.requireContent(t, clone)
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
	require.Empty(t, s.snapshots(t, snapshot.Image))
}

func TestCloneOfAnotherSnapshotIsRefused(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	one, other, clone := s.snapshotted(t, "", run), s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), one, clone, metadata(run)))
	err := s.EnsureClone(t.Context(), other, clone, metadata(run))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, one.Image.String())
	s.requireContent(t, clone)
}

func TestCloneOfAMissingSnapshot(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	clone := s.clone(run)
	for name, snapshot := range map[string]backup.Snapshot{
		"no snapshot": snapshotOf(s.create(t, ""), backup.SnapshotName(run)),
		"no image":    snapshotOf(backup.Image{Pool: s.source, Name: "gone"}, backup.SnapshotName(run)),
	} {
		t.Run(name, func(t *testing.T) {
			err := s.EnsureClone(t.Context(), snapshot, clone, metadata(run))
			require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
		})
	}
	// A scratch pool that does not exist says nothing about the volume.
	clone.Pool = "gone"
	err := s.EnsureClone(t.Context(), s.snapshotted(t, "", run), clone, metadata(run))
	require.Error(t, err)
	require.Empty(t, backup.ClassOf(err), "%v", err)
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
	_, err = s.Clones(t.Context(), "gone", "")
	require.ErrorContains(t, err, "There is no pool gone")
}

func TestSnapshotOutlivesItsRemovalUntilTheCloneIsGone(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))

	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	left := s.snapshots(t, snapshot.Image)
	require.Len(t, left, 1)
	require.NotEqual(t, snapshot.Name, left[0].Name)
	s.requireContent(t, clone)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))

	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
	require.Empty(t, s.snapshots(t, snapshot.Image))
}

func TestCloneInUseIsNotRemoved(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	_, release := s.open(t, clone)

	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)), "it is whole")
	err := s.EnsureCloneAbsent(t.Context(), clone)
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "%v", err)
	require.Regexp(t, `open at 127\.0\.0\.1:\d+/\d+`, err.Error())
	s.requireContent(t, clone)
	release()
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
}

// A removal takes long for a large image, and whoever does it can die. The image
// then no longer opens, but still lies in the pool and keeps its snapshot.
func TestRemovalThatBrokeOffIsFinished(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot, clone := s.snapshotted(t, "", run), s.clone(run)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	i, release := s.open(t, clone)
	const object, objects = 4 << 20, 1000
	require.NoError(t, i.Resize(object*objects))
	for n := range int64(objects) {
		_, err := i.WriteAt(content[:512], n*object)
		require.NoError(t, err)
	}
	release()

	// One object at a time, so that it is killed long before it is done.
	removal := exec.Command("rbd", "rm", "--no-progress", "--rbd-concurrent-management-ops=1", "--conf="+os.Getenv("CEPH_CONF"), clone.String())
	require.NoError(t, removal.Start())
	s.in(t, clone.Pool, clone.Namespace, func(io *rados.IOContext) {
		require.Eventually(t, func() bool {
			return missing(inImage(io, clone.Name, reading, func(*rbd.Image) error { return nil }))
		}, time.Minute, time.Millisecond)
	})
	require.NoError(t, removal.Process.Kill())
	require.Error(t, removal.Wait(), "it was killed before it was done")

	clones, err := s.Clones(t.Context(), clone.Pool, run)
	require.NoError(t, err)
	require.Equal(t, []Clone{{Image: clone, Run: run, Attempt: 1}}, clones)
	// The dead client may have been holding the clone open, or not yet.
	if err := s.EnsureCloneAbsent(t.Context(), clone); err != nil {
		require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "%v", err)
	}
	require.Eventually(t, func() bool { return s.EnsureCloneAbsent(t.Context(), clone) == nil }, time.Minute, time.Second)
	clones, err = s.Clones(t.Context(), clone.Pool, run)
	require.NoError(t, err)
	require.Empty(t, clones)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	require.Empty(t, s.snapshots(t, snapshot.Image))
}

func TestForeignImagesAreNeitherListedNorRemoved(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.EnsureCloneAbsent(t.Context(), image)))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.EnsureClone(t.Context(), backup.Snapshot{Source: backup.Source{Image: image}}, image, metadata("x"))))
	clones, err := s.Clones(t.Context(), s.source, "")
	require.NoError(t, err)
	for _, clone := range clones {
		require.NotEqual(t, image, clone.Image)
	}
	_, err = s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
}
