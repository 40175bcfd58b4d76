// Package restic keeps backups in a restic repository, by way of the restic
// program. Whatever it writes, stock restic reads without Ammonite.
package restic

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

const (
	// lockPatience rides out a `restic forget` of a moment. Whoever waits longer
	// gets a RepositoryLocked failure and tries again later, instead of keeping
	// a node's slot and a clone.
	lockPatience = 5 * time.Second
	// exclusivePatience is for the short work that needs the repository alone
	// and so has to meet a moment without any backup.
	exclusivePatience = time.Minute
	// forgetPatience is for work that is tried again when it does not get the
	// repository: restic itself looks less and less often.
	forgetPatience = 20 * time.Second
)

// Repository is how restic reaches one repository.
type Repository struct {
	// Binary is the restic program; empty finds it by PATH.
	Binary string
	// Env holds restic's own variables as KEY=value: where the repository is and
	// how it opens.
	Env []string
	// Cache is restic's cache directory; empty runs it without a cache.
	Cache string
	// Secrets are values that are blotted out of errors.
	Secrets []string
}

// variables are restic's, by name.
func (r Repository) variables() map[string]string {
	values := make(map[string]string, len(r.Env))
	for _, kv := range r.Env {
		name, value, _ := strings.Cut(kv, "=")
		values[name] = value
	}
	return values
}

// Ensure makes an empty repository if there is none. Another process that does
// the same at the same time is no error.
func (r Repository) Ensure(ctx context.Context, run command.Runner) error {
	return r.ensure(ctx, run)
}

func (r Repository) ensure(ctx context.Context, run command.Runner, options ...string) error {
	opens := func() error {
		_, err := r.run(ctx, run, r.command("cat", "--no-lock", "config"))
		return err
	}
	err := opens()
	if backup.ClassOf(err) != backup.RepositoryMissing {
		return err
	}
	if _, err = r.run(ctx, run, r.command("init", options...)); err != nil && ctx.Err() == nil && opens() == nil {
		return nil
	}
	return err
}

// command is a restic command whose output is JSON, where it has such.
func (r Repository) command(name string, args ...string) command.Command {
	c := r.plain(name, args...)
	c.Args = slices.Insert(c.Args, 1, "--json")
	return c
}

// plain is a restic command with everything that all commands share.
func (r Repository) plain(name string, args ...string) command.Command {
	argv := []string{name}
	if r.Cache == "" {
		argv = append(argv, "--no-cache")
	} else {
		argv = append(argv, "--cache-dir", r.Cache)
	}
	return command.Command{
		Name:    cmp.Or(r.Binary, "restic"),
		Args:    append(argv, args...),
		Env:     append(slices.Clone(r.Env), "RESTIC_PROGRESS_FPS=1"),
		Secrets: r.Secrets,
	}
}

// reply is what a finished restic left.
type reply struct {
	stdout []byte
	said   said
}

// run runs the command and turns its exit status into a failure's class.
func (r Repository) run(ctx context.Context, run command.Runner, c command.Command) (reply, error) {
	var rep reply
	c.OnStderrLine = rep.said.line
	res, err := run.Run(ctx, c)
	rep.stdout = res.Stdout
	return rep, r.explain(ctx, c.Args[0], err, rep.said)
}
