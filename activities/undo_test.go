package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func (a *apis) AllUndos(context.Context) ([]backup.KeptUndo, error) { return a.undos, a.trouble }

func (a *apis) EnsureSnapshotAbsent(_ context.Context, _ backup.Source, name string) error {
	if name == "undo-held" {
		return errors.New("it is open")
	}
	a.removed = append(a.removed, name)
	return nil
}

func TestExpireUndos(t *testing.T) {
	kept := func(run string, taken time.Duration, until time.Time) backup.KeptUndo {
		return backup.KeptUndo{
			Image: backup.Image{Pool: "rbd", Name: "csi-vol-1"}, Undo: backup.Undo{Run: run, Name: "undo-" + run, Taken: now.Add(-taken), Until: until},
		}
	}
	a := &apis{
		trouble: errors.New("pool p does not answer"),
		undos: []backup.KeptUndo{
			kept("over", 80*time.Hour, now.Add(-time.Second)), kept("held", 80*time.Hour, now.Add(-time.Second)), kept("young", time.Hour, now.Add(time.Second)),
			kept("running", 80*time.Hour, time.Time{}), kept("terminated", 80*time.Hour, time.Time{}), kept("forgotten", 800*time.Hour, time.Time{}),
			kept("not listed yet", time.Minute, time.Time{}),
		},
		states: map[string]RunState{"running": {Known: true, Open: true}, "terminated": {Known: true}},
	}
	for _, dry := range []bool{true, false} {
		value, err := call{}.run(t, a.control().ExpireUndos, ExpireUndosInput{Now: now, Grace: backup.Duration(15 * time.Minute), DryRun: dry})
		require.NoError(t, err)
		var result ExpiredUndos
		require.NoError(t, value.Get(&result))
		require.Equal(t, []string{"rbd/csi-vol-1@undo-terminated", "rbd/csi-vol-1@undo-forgotten"}, result.Broken)
		over := "rbd/csi-vol-1@undo-over: the time to undo the restore is over"
		if dry {
			require.Empty(t, a.removed)
			require.Equal(t, []string{over, "rbd/csi-vol-1@undo-held: the time to undo the restore is over"}, result.Removed)
			require.Equal(t, []string{"pool p does not answer"}, result.Left)
			continue
		}
		require.Equal(t, []string{"undo-over"}, a.removed)
		require.Equal(t, []string{over}, result.Removed)
		require.Equal(t, []string{"pool p does not answer", "rbd/csi-vol-1@undo-held: it is open"}, result.Left)
	}
}
