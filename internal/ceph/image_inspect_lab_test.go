//go:build lab

package ceph

import (
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// volumeOn is a disk on the image.
func volumeOn(image backup.Image) backup.Volume {
	return backup.Volume{Kind: backup.KindRBDBlock, PV: "pvc-1", Source: backup.Source{Image: image}}
}

func TestInspectFindsAnImage(t *testing.T) {
	s := newSite(t)
	for _, namespace := range []string{"", tenant} {
		v := volumeOn(s.create(t, namespace))
		found, err := s.Inspect(t.Context(), v)
		require.NoError(t, err)
		v.SizeBytes = imageSize
		require.Equal(t, v, found)
	}
}

func TestInspectTakesTheRadosNamespaceOfTheCluster(t *testing.T) {
	s := newSite(t)
	image := s.create(t, tenant)
	elsewhere := s.create(t, "")
	image.Namespace = ""
	_, err := s.Inspect(t.Context(), volumeOn(image))
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))

	s.cfg.RadosNamespace = tenant
	found, err := s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
	require.Equal(t, tenant, found.Image.Namespace)
	_, err = s.Inspect(t.Context(), volumeOn(elsewhere))
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
}

func TestWhatDoesNotExistIsGone(t *testing.T) {
	s := newSite(t)
	inTenant := s.create(t, tenant)
	for name, image := range map[string]backup.Image{
		"no image":     {Pool: s.source, Name: "gone"},
		"no namespace": {Pool: s.source, Namespace: "gone", Name: inTenant.Name},
		"elsewhere":    {Pool: s.source, Name: inTenant.Name},
		"no pool":      {Pool: "gone", Name: "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Inspect(t.Context(), volumeOn(image))
			require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, image.String())
		})
	}
}

func TestAnImageInTheTrashIsGone(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	s.take(t, image, "s")
	rbdCommand(t, "trash", "mv", image.String())
	_, err := s.Inspect(t.Context(), volumeOn(image))
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "is in the trash")
}

func TestFormat1IsUnsupported(t *testing.T) {
	s := newSite(t)
	image := backup.Image{Pool: s.source, Name: "old-" + uuid.NewString()}
	// Ceph makes no such images any more; by this one knows them.
	s.in(t, image.Pool, "", func(io *rados.IOContext) {
		require.NoError(t, io.WriteFull(image.Name+".rbd", []byte("<<< Rados Block Device Image >>>\n")))
	})
	_, err := s.Inspect(t.Context(), volumeOn(image))
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err), "%v", err)
}

// journal writes an entry of ceph-csi's journal and returns its handle.
func (s *site) journal(t *testing.T, namespace string, entry map[string]string) *backup.Handle {
	t.Helper()
	handle := &backup.Handle{UUID: uuid.NewString()}
	values := map[string][]byte{}
	for key, value := range entry {
		values[key] = []byte(value)
	}
	s.in(t, s.source, namespace, func(io *rados.IOContext) {
		location, err := s.others.GetPoolByName(s.source)
		require.NoError(t, err)
		handle.Location = location
		require.NoError(t, io.SetOmap("csi.volume."+handle.UUID, values))
	})
	return handle
}

func TestInspectLooksAnImageUpInTheJournal(t *testing.T) {
	s := newSite(t)
	for _, namespace := range []string{"", tenant} {
		image := s.create(t, namespace)
		handle := s.journal(t, namespace, map[string]string{"csi.volname": "pvc-1", "csi.imagename": image.Name})
		for name, given := range map[string]backup.Image{
			"by the pool's number": {Namespace: namespace},
			"by the pool's name":   {Namespace: namespace, Pool: s.source},
		} {
			v := volumeOn(given)
			v.Handle = handle
			if given.Pool != "" {
				v.Handle = &backup.Handle{Location: -1, UUID: handle.UUID}
			}
			found, err := s.Inspect(t.Context(), v)
			require.NoError(t, err, name)
			require.Equal(t, image, found.Image)
			require.Nil(t, found.Handle)
			require.NotNil(t, v.Handle, "the caller's is left alone")
			require.EqualValues(t, imageSize, found.SizeBytes)
		}
	}
}

func TestJournalKnowsAnImageThatWasReplacedOrEncrypted(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	v := volumeOn(backup.Image{})
	v.Handle = s.journal(t, "", map[string]string{"csi.imagename": image.Name, "csi.imageid": "1a2b", "csi.volume.encryptKMS": "vault"})
	found, err := s.Inspect(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, backup.LUKS, found.Encryption)
	require.Len(t, found.Notes, 1)
	require.Contains(t, found.Notes[0], "another one")
}

func TestVolumeThatTheJournalDoesNotKnow(t *testing.T) {
	s := newSite(t)
	early := s.create(t, "")
	v := volumeOn(backup.Image{Pool: s.source})
	v.Handle = &backup.Handle{Location: -1, UUID: early.Name[len("csi-vol-"):]}
	found, err := s.Inspect(t.Context(), v)
	require.NoError(t, err, "its name was not written down in the beginning")
	require.Equal(t, early, found.Image)

	v.Handle = &backup.Handle{Location: -1, UUID: uuid.NewString()}
	_, err = s.Inspect(t.Context(), v)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "csi-vol-"+v.Handle.UUID)

	v = volumeOn(backup.Image{})
	v.Handle = &backup.Handle{Location: 1 << 40, UUID: uuid.NewString()}
	_, err = s.Inspect(t.Context(), v)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "pool number 1099511627776")
}

func TestInspectSeesEncryption(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	s.change(t, image, func(i *rbd.Image) { require.NoError(t, i.SetMetadata("rbd.csi.ceph.com/encrypted", "encrypted")) })
	v := volumeOn(image)
	v.Kind = backup.KindRBDFilesystem
	found, err := s.Inspect(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, backup.LUKS, found.Encryption)

	v.Encryption = backup.FSCrypt
	found, err = s.Inspect(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, backup.FSCrypt, found.Encryption, "the PersistentVolume said so")
}

func TestInspectNotesAnInvalidObjectMap(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, mib, "--image-feature", "layering,exclusive-lock")
	rbdCommand(t, "feature", "enable", image.String(), "object-map", "fast-diff")
	found, err := s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
	require.Len(t, found.Notes, 1)
	require.Contains(t, found.Notes[0], "rbd object-map rebuild "+image.String())

	v := volumeOn(image)
	v.Kind = backup.KindRBDFilesystem
	found, err = s.Inspect(t.Context(), v)
	require.NoError(t, err)
	require.Empty(t, found.Notes, "a clone is not searched for data")

	rbdCommand(t, "object-map", "rebuild", image.String())
	found, err = s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
	require.Empty(t, found.Notes)
}

func TestDisksHaveALimitedSize(t *testing.T) {
	s := newSite(t)
	for size, class := range map[uint64]backup.Class{0: backup.VolumeUnsupported, 1: "", 16 << 40: "", 16<<40 + 1: backup.VolumeUnsupported} {
		image := s.imageWith(t, size, "--image-feature", "layering")
		_, err := s.Inspect(t.Context(), volumeOn(image))
		require.Equal(t, class, backup.ClassOf(err), "%d: %v", size, err)
		v := volumeOn(image)
		v.Kind = backup.KindRBDFilesystem
		_, err = s.Inspect(t.Context(), v)
		require.NoError(t, err)
	}
}

func TestMirroredImageIsBackedUpWhereItIsPrimary(t *testing.T) {
	s := newSite(t)
	rbdCommand(t, "mirror", "pool", "enable", s.source, "image")
	for mode, features := range map[string]string{"journal": "layering,exclusive-lock,journaling", "snapshot": allFeatures} {
		image := s.imageWith(t, 16*mib, "--image-feature", features)
		rbdCommand(t, "mirror", "image", "enable", image.String(), mode)
		found, err := s.Inspect(t.Context(), volumeOn(image))
		require.NoError(t, err, mode)
		require.Len(t, found.Notes, 1)
		require.Contains(t, found.Notes[0], "mirrored")
		name := backup.SnapshotName(uuid.NewString())
		_, err = s.EnsureSnapshot(t.Context(), found.Source, name)
		require.NoError(t, err)
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), found.Source, name))

		rbdCommand(t, "mirror", "image", "demote", image.String())
		_, err = s.Inspect(t.Context(), volumeOn(image))
		require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err), "%s: %v", mode, err)
		_, err = s.EnsureSnapshot(t.Context(), found.Source, name)
		require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err), "it was demoted after it was looked at")
	}
}

func TestImageThatIsBeingMoved(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 32*mib)
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 5 * mib}, [2]int64{20 * mib, kib}) })
	rbdCommand(t, "migration", "prepare", image.String(), image.String())
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{mib, kib}); discard(t, i, [2]int64{4 * mib, 4 * mib}) })

	found, err := s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
	require.Len(t, found.Notes, 1)
	require.Contains(t, found.Notes[0], "rbd migration")
	snapshot, err := s.EnsureSnapshot(t.Context(), found.Source, backup.SnapshotName(uuid.NewString()))
	require.NoError(t, err)
	same := func() *SnapshotReader {
		want := rbdCommand(t, "export", image.String()+"@"+snapshot.Name, "-")
		r := openSnapshot(t, s.reader(t), image, snapshot.Name)
		got, _ := contents(t, r)
		require.Equal(t, -1, difference(want, got))
		return r
	}
	prepared := same()
	require.NoError(t, prepared.CheckPresent(t.Context()))
	rbdCommand(t, "migration", "execute", image.String())
	executed := same()
	rbdCommand(t, "migration", "commit", image.String())
	for _, r := range []*SnapshotReader{prepared, executed} {
		err := r.CheckPresent(t.Context())
		require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "%v", err)
	}
	require.NoError(t, same().CheckPresent(t.Context()))
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), found.Source, snapshot.Name))
}

func TestImageThatWasMovedElsewhereIsGone(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 16*mib)
	rbdCommand(t, "migration", "prepare", image.String(), s.scratch+"/elsewhere")
	_, err := s.Inspect(t.Context(), volumeOn(image))
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "was moved to image elsewhere")
	rbdCommand(t, "migration", "abort", image.String())
	_, err = s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
}

// Kernels map the clones of images that they could not map themselves.
func TestClonesOfSpecialImagesAreOrdinary(t *testing.T) {
	s := newSite(t)
	for name, args := range map[string][]string{
		"all of ceph-csi's features": {"--image-feature", allFeatures},
		"journaling":                 {"--image-feature", allFeatures + ",journaling"},
		"fancy striping":             {"--stripe-unit", "64K", "--stripe-count", "3"},
		"data pool":                  {"--data-pool", s.scratch},
		"small objects":              {"--object-size", "64K"},
	} {
		image := s.imageWith(t, 16*mib, args...)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, mib}, [2]int64{9 * mib, kib}) })
		run := uuid.NewString()
		snapshot, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, backup.SnapshotName(run))
		require.NoError(t, err, name)
		clone := s.clone(run)
		require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)), name)
		want := rbdCommand(t, "export", image.String()+"@"+snapshot.Name, "-")
		require.Equal(t, -1, difference(want, rbdCommand(t, "export", clone.String(), "-")), name)
		s.in(t, clone.Pool, "", func(io *rados.IOContext) {
			require.NoError(t, inImage(io, clone.Name, reading, func(i *rbd.Image) error {
				features, err := i.GetFeatures()
				// A clone has the striping of its parent, which kernels know since 4.17.
				require.Equal(t, rbd.FeatureLayering|rbd.FeatureOperations, features&^rbd.FeatureStripingV2, name)
				return err
			}))
		})
		require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	}
}
