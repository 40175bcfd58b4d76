package restic_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// beside is a repository beside r that does not exist yet, with a password of its own.
func beside(t *testing.T, r restic.Repository) restic.Repository {
	t.Helper()
	r.Env = []string{"RESTIC_REPOSITORY=" + filepath.Join(t.TempDir(), "second"), "RESTIC_PASSWORD=another"}
	return r
}

func TestBackupsAreCopied(t *testing.T) {
	t.Parallel()
	from, path := newRepository(t)
	to := beside(t, from)
	c := restic.Copier{From: from, To: to}
	volume, _ := newVolume(t)
	first := backUp(t, from, "a", volume)
	require.Equal(t, backup.RepositoryMissing, backup.ClassOf(c.Copy(t.Context(), command.Exec{}, []string{first}, nil)))
	require.NoError(t, c.Ensure(t.Context(), command.Exec{}))
	require.Equal(t, chunker(t, from), chunker(t, to), "both cut files alike")

	require.NoError(t, c.Copy(t.Context(), command.Exec{}, []string{first}, nil))
	second := backUp(t, from, "a", volume)
	require.NoError(t, from.Tag(t.Context(), command.Exec{}, []string{second}, []string{"hold"}, nil))
	list := func(r restic.Repository) (all []restic.Snapshot) {
		all, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
		require.NoError(t, err)
		return all
	}
	var ids []string
	for _, s := range list(from) {
		ids = append(ids, s.ID)
	}
	ids = append(ids, strings.Repeat("0", len(first)))
	require.NoError(t, c.Copy(t.Context(), command.Exec{}, ids, nil), "what is there already, or nowhere, is passed over")
	copied := list(to)
	require.Len(t, copied, 2)
	for i, s := range list(from) {
		require.Equal(t, s.Origin(), copied[i].Origin())
		require.Equal(t, s.Time, copied[i].Time)
		require.Equal(t, s.Tags, copied[i].Tags)
	}
	require.True(t, check(t, to).None())

	// What is damaged cannot be copied, which is no failure of either repository.
	data, _ := packs(t, path)
	other, _ := newVolume(t)
	damaged, sound := backUp(t, from, "b", other), backUp(t, from, "a", volume)
	more, _ := packs(t, path)
	at := slices.IndexFunc(more, func(file string) bool { return !slices.Contains(data, file) })
	spoil(t, more[at], 1<<20)
	err := c.Copy(t.Context(), command.Exec{}, []string{damaged, sound}, nil)
	require.Error(t, err)
	require.Empty(t, backup.ClassOf(err))
	require.NoError(t, c.Copy(t.Context(), command.Exec{}, []string{sound}, nil))
	require.Len(t, list(to), 3)
}

// chunker is by what a repository cuts files.
func chunker(t *testing.T, r restic.Repository) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), r.Binary, "cat", "config", "--no-lock", "--no-cache")
	cmd.Env = append(os.Environ(), r.Env...)
	out, err := cmd.Output()
	require.NoError(t, err)
	var config struct {
		Polynomial string `json:"chunker_polynomial"`
	}
	require.NoError(t, json.Unmarshal(out, &config))
	require.NotEmpty(t, config.Polynomial)
	return config.Polynomial
}

// seen runs nothing and keeps the command.
type seen struct{ command *command.Command }

func (s seen) Run(_ context.Context, c command.Command) (command.Result, error) {
	*s.command = c
	return command.Result{}, nil
}

func TestBothRepositoriesAreOpenedAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		from, to, env []string
		secrets       []string
		refused       string
	}{
		"of their own": {
			from: []string{"RESTIC_REPOSITORY=/from", "RESTIC_PASSWORD=one's", "RESTIC_COMPRESSION=off", "HTTPS_PROXY=http://a"},
			to:   []string{"RESTIC_REPOSITORY=s3:host/b", "RESTIC_PASSWORD=two's", "AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=the key", "RESTIC_COMPRESSION=max"},
			env: []string{"RESTIC_REPOSITORY=s3:host/b", "RESTIC_PASSWORD=two's", "AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=the key", "RESTIC_COMPRESSION=max",
				"RESTIC_FROM_REPOSITORY=/from", "RESTIC_FROM_PASSWORD=one's"},
			secrets: []string{"two's", "the key", "one's"},
		},
		"alike": {
			from: []string{"RESTIC_REPOSITORY=s3:host/a", "RESTIC_PASSWORD=same", "AWS_ACCESS_KEY_ID=id", "RESTIC_CACERT=/ca"},
			to:   []string{"RESTIC_REPOSITORY=s3:host/b", "RESTIC_PASSWORD=same", "AWS_ACCESS_KEY_ID=id"},
			env: []string{"RESTIC_REPOSITORY=s3:host/b", "RESTIC_PASSWORD=same", "AWS_ACCESS_KEY_ID=id",
				"RESTIC_FROM_REPOSITORY=s3:host/a", "RESTIC_FROM_PASSWORD=same", "RESTIC_CACERT=/ca"},
			secrets: []string{"same", "same"},
		},
		"two servers, each with its login": {
			from: []string{"RESTIC_REPOSITORY=rest:https://one/", "RESTIC_PASSWORD=one's", "RESTIC_REST_USERNAME=me", "RESTIC_REST_PASSWORD=hush"},
			to:   []string{"RESTIC_REPOSITORY=rest:https://two/", "RESTIC_PASSWORD=two's", "RESTIC_REST_USERNAME=you", "RESTIC_REST_PASSWORD=p@ss"},
			env: []string{"RESTIC_PASSWORD=two's", "RESTIC_REPOSITORY=rest:https://you:p%40ss@two/",
				"RESTIC_FROM_PASSWORD=one's", "RESTIC_FROM_REPOSITORY=rest:https://me:hush@one/"},
			secrets: []string{"two's", "p@ss", "p%40ss", "p@ss", "one's", "hush", "hush"},
		},
		"two accounts of one kind": {
			from:    []string{"RESTIC_REPOSITORY=s3:host/a", "RESTIC_PASSWORD=same", "AWS_ACCESS_KEY_ID=id"},
			to:      []string{"RESTIC_REPOSITORY=s3:host/b", "RESTIC_PASSWORD=same", "AWS_ACCESS_KEY_ID=other"},
			refused: "different values of AWS_ACCESS_KEY_ID",
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, err := restic.FromEnvironment(test.from)
			require.NoError(t, err)
			to, err := restic.FromEnvironment(test.to)
			require.NoError(t, err)
			var got command.Command
			err = restic.Copier{From: from, To: to}.Copy(t.Context(), seen{&got}, []string{"id"}, nil)
			if test.refused != "" {
				require.ErrorContains(t, err, test.refused)
				require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
				return
			}
			require.NoError(t, err)
			require.ElementsMatch(t, append(test.env, "RESTIC_PROGRESS_FPS=1"), got.Env)
			require.ElementsMatch(t, test.secrets, got.Secrets)
		})
	}
}
