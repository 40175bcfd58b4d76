package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/config"
)

func TestRepositoriesOfAWorker(t *testing.T) {
	dir := t.TempDir()
	offsite, rules := filepath.Join(dir, "offsite"), filepath.Join(t.TempDir(), "rules.yaml")
	write := func(file, content string) { require.NoError(t, os.WriteFile(file, []byte(content), 0o600)) }
	require.NoError(t, os.Mkdir(offsite, 0o700))
	write(filepath.Join(offsite, "RESTIC_REPOSITORY"), "/offsite")
	write(filepath.Join(offsite, "RESTIC_PASSWORD"), "x")
	write(rules, "allow: {offsite: ['*']}")
	environ := []string{"RESTIC_REPOSITORY=/r", "RESTIC_PASSWORD=x"}
	control := config.Worker{Role: config.RoleControl, Repositories: dir, RepositoryRules: rules}
	node := config.Worker{Role: config.RoleNode, Repositories: dir, RepositoryRules: rules}

	found, err := findRepositories(control, environ)
	require.NoError(t, err)
	require.True(t, found.rules.Any())
	found, err = findRepositories(node, environ)
	require.NoError(t, err)
	require.False(t, found.rules.Any(), "a node decides nothing")
	_, err = findRepositories(config.Worker{Role: config.RoleControl}, nil)
	require.NoError(t, err, "a control worker can do without")
	_, err = findRepositories(config.Worker{Role: config.RoleNode}, nil)
	require.ErrorContains(t, err, "RESTIC_REPOSITORY is not set")

	write(rules, "rules: [{repository: vault, namespaces: [a]}, {repository: offsite, namespaces: []}]")
	write(filepath.Join(offsite, "RESTIC_REPOSITORY"), "")
	_, err = findRepositories(control, environ)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for _, said := range []string{"sends backups to repository vault, which is not in AMMONITE_REPOSITORIES", "repository offsite: RESTIC_REPOSITORY is not set", rules, "rule 2: no namespaces"} {
		require.ErrorContains(t, err, said)
	}
	require.NoError(t, os.Remove(rules))
	_, err = findRepositories(control, environ)
	require.ErrorContains(t, err, "AMMONITE_REPOSITORY_RULES")
}
