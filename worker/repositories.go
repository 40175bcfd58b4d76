package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/placement"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// repositories are those that the worker was given, and the rules that say whose
// backups go into which.
type repositories struct {
	restic.Repositories
	rules placement.Rules
}

// findRepositories names everything that is wrong with them at once.
func findRepositories(s config.Worker, environ []string) (repositories, error) {
	all, wrong := restic.RepositoriesFromEnvironment(environ, s.Repositories)
	found := repositories{Repositories: all}
	names, err := all.Names()
	if len(names) == 0 && err == nil && s.Agent() {
		// A control worker can do without: then it keeps no repository small.
		_, missing := restic.FromEnvironment(environ)
		wrong = errors.Join(wrong, missing)
	}
	if !s.Control() {
		return found, wrong
	}
	found.rules, err = readRules(s.RepositoryRules)
	wrong = errors.Join(wrong, err)
	for _, name := range found.rules.Repositories() {
		if !slices.Contains(names, name) && backup.ValidateRepository(name) == nil {
			wrong = errors.Join(wrong, backup.Fail(backup.InvalidInput,
				fmt.Sprintf("%s sends backups to repository %s, which is not in AMMONITE_REPOSITORIES", s.RepositoryRules, name), "Add it, or take it out of the rules.", nil))
		}
	}
	return found, wrong
}

// readRules reads the rules of a file; without one there are none.
func readRules(file string) (placement.Rules, error) {
	if file == "" {
		return placement.Rules{}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return placement.Rules{}, backup.Fail(backup.InvalidInput, "the rules of repositories cannot be read", "AMMONITE_REPOSITORY_RULES must name a readable file.", err)
	}
	rules, err := placement.Parse(text)
	if err != nil {
		return rules, fmt.Errorf("%s: %w", file, err)
	}
	return rules, nil
}
