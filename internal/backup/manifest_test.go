package backup_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestManifestIsReadAsItWasWritten(t *testing.T) {
	m := backup.Manifest{
		StorageClass: "fast", AccessModes: []string{"ReadWriteOnce"}, SizeBytes: 5 << 30,
		Labels: map[string]string{"app.kubernetes.io/name": "shop"}, Annotations: map[string]string{"note": "a, \"b\" = ü\n"},
	}
	text := m.Pack()
	require.Regexp(t, `^[-_A-Za-z0-9]+$`, text, "restic splits tags at commas")
	require.Less(t, len(text), 300)
	got, err := backup.UnpackManifest(text)
	require.NoError(t, err)
	require.Equal(t, m, got)
	got, err = backup.UnpackManifest("")
	require.NoError(t, err)
	require.Zero(t, got)
}

// noise cannot be compressed.
func noise(bytes int) string {
	r := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < bytes {
		text.WriteByte(byte(' ' + 1 + r.IntN(90)))
	}
	return text.String()
}

func TestManifestIsBounded(t *testing.T) {
	for name, c := range map[string]struct{ labels, annotations, keepsLabels bool }{
		"large annotations": {annotations: true, keepsLabels: true},
		"large labels":      {labels: true},
		"both":              {labels: true, annotations: true},
	} {
		m := backup.Manifest{StorageClass: "fast", SizeBytes: 1, Labels: map[string]string{"app": "shop"}, Annotations: map[string]string{"a": "b"}}
		if c.labels {
			m.Labels["large"] = noise(8 << 10)
		}
		if c.annotations {
			m.Annotations["large"] = noise(8 << 10)
		}
		text := m.Pack()
		require.LessOrEqual(t, len(text), 4<<10, name)
		got, err := backup.UnpackManifest(text)
		require.NoError(t, err, name)
		require.Equal(t, "fast", got.StorageClass, name)
		require.Equal(t, c.keepsLabels, got.Labels != nil, name)
		require.Nil(t, got.Annotations, name)
	}
}

func FuzzUnpackManifest(f *testing.F) {
	f.Add(backup.Manifest{StorageClass: "fast"}.Pack())
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := backup.UnpackManifest(text); err == nil {
			again, err := backup.UnpackManifest(m.Pack())
			require.NoError(t, err)
			require.Equal(t, m.StorageClass, again.StorageClass)
		} else {
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
		}
	})
}
