package kube

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// golden is a shape of PersistentVolume and what is to become of it. Another file
// in testdata/resolve is another case.
type golden struct {
	claim  corev1.PersistentVolumeClaim
	volume corev1.PersistentVolume
	want   struct {
		// Volume is what it is backed up as,
		Volume *backup.Volume `json:"volume"`
		// Refused what the failure says instead.
		Refused []string `json:"refused"`
	}
}

func goldens(t testing.TB) map[string]golden {
	t.Helper()
	files, err := filepath.Glob("testdata/resolve/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	found := map[string]golden{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		documents := bytes.Split(text, []byte("\n---\n"))
		require.Len(t, documents, 3, "%s: give the claim, the volume and the outcome", file)
		var g golden
		for i, into := range []any{&g.claim, &g.volume, &g.want} {
			require.NoError(t, yaml.UnmarshalStrict(documents[i], into), file)
		}
		require.NotEqual(t, g.want.Volume == nil, g.want.Refused == nil, "%s: give a volume or what the refusal says", file)
		found[strings.TrimSuffix(filepath.Base(file), ".yaml")] = g
	}
	return found
}

func TestResolve(t *testing.T) {
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			got, err := resolve(&g.claim, &g.volume)
			if g.want.Volume != nil {
				require.NoError(t, err)
				require.Equal(t, *g.want.Volume, got)
				return
			}
			require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
			for _, says := range g.want.Refused {
				require.ErrorContains(t, err, says)
			}
		})
	}
}

// A PersistentVolume is written by whoever may, so nothing in it may upset the
// resolver, or pass as the name of something else.
func FuzzResolve(f *testing.F) {
	cases := goldens(f)
	for _, g := range cases {
		if csi := g.volume.Spec.CSI; csi != nil {
			a := csi.VolumeAttributes
			f.Add(csi.Driver, csi.VolumeHandle, a["pool"], a["imageName"], a["staticVolume"], a["subvolumeName"], a["subvolumePath"], a["rootPath"], a["backingSnapshotID"])
		}
	}
	f.Fuzz(func(t *testing.T, driver, handle, pool, image, static, subvolume, path, root, snapshot string) {
		g := cases["rbd-filesystem"]
		pv := g.volume.DeepCopy()
		pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle = driver, handle
		pv.Spec.CSI.VolumeAttributes = map[string]string{
			"pool": pool, "imageName": image, "staticVolume": static, "subvolumeName": subvolume,
			"subvolumePath": path, "rootPath": root, "backingSnapshotID": snapshot,
		}
		v, err := resolve(&g.claim, pv)
		if err != nil {
			require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
			return
		}
		if v.Handle == nil {
			require.True(t, v.IsSubvolume() == (v.Kind == backup.KindCephFS))
			require.True(t, v.IsSubvolume() || v.Image.Pool != "" && v.Image.Name != "")
		}
		require.NotContains(t, v.Image.Name+v.Subvolume.Name+v.Subvolume.Group+v.Subvolume.Snapshot, "/")
		require.NotContains(t, v.Subvolume.Path, "..")
	})
}
