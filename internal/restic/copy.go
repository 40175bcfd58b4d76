package restic

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// Copier copies backups from one repository into another.
type Copier struct{ From, To Repository }

// Ensure makes the repository that is copied into, if there is none, so that it cuts
// files as the other does: data that both hold are then stored once.
func (c Copier) Ensure(ctx context.Context, run command.Runner) error {
	both, err := c.both()
	if err != nil {
		return err
	}
	return both.ensure(ctx, run, "--copy-chunker-params")
}

// Copy copies backups, by their full IDs. Those that were copied before, or do not exist,
// are passed over without an error. It waits a little for either repository; if it does
// not get both, that is a RepositoryLocked failure. It may be interrupted at any point.
// progress, which may be nil, is called while restic works.
//
// It is an InvalidInput failure if the two cannot be opened by one process, since each
// needs a variable to have another value.
func (c Copier) Copy(ctx context.Context, run command.Runner, ids []string, progress func(Work)) error {
	both, err := c.both()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(ids, mostIDs) {
		var s said
		cmd := both.plain("copy", append([]string{"--retry-lock", lockPatience.String(), "--"}, some...)...)
		watch := watcher{progress: progress}
		cmd.OnStderrLine, cmd.OnLine = s.line, watch.line
		_, err := run.Run(ctx, cmd)
		if err := both.explain(ctx, "copy", err, s); err != nil {
			return err
		}
	}
	return nil
}

var (
	// fromVariables are those that restic reads for the repository that it copies from,
	// by what they are called otherwise.
	fromVariables = map[string]string{
		repositoryVariable: "RESTIC_FROM_REPOSITORY", repositoryFileVariable: "RESTIC_FROM_REPOSITORY_FILE",
		passwordVariable: "RESTIC_FROM_PASSWORD", passwordFileVariable: "RESTIC_FROM_PASSWORD_FILE",
		"RESTIC_PASSWORD_COMMAND": "RESTIC_FROM_PASSWORD_COMMAND", "RESTIC_KEY_HINT": "RESTIC_FROM_KEY_HINT",
	}
	// writersOnly say how data are written.
	writersOnly = []string{"RESTIC_COMPRESSION", "RESTIC_PACK_SIZE", "RESTIC_READ_CONCURRENCY"}
)

// both is the repository that is copied into, opened together with the other.
func (c Copier) both() (Repository, error) {
	to, from := c.To.withLogin(), c.From.withLogin()
	values := to.variables()
	to.Env = slices.Clone(to.Env)
	for _, kv := range from.Env {
		name, value, _ := strings.Cut(kv, "=")
		has, there := values[name]
		switch {
		case fromVariables[name] != "":
			to.Env = append(to.Env, fromVariables[name]+"="+value)
		case slices.Contains(writersOnly, name) || slices.Contains(alsoUnderstood, name) || there && has == value:
		case there:
			return to, refuse("the repositories need different values of "+name+", and restic copies with one",
				"Reach one of them in another way, such as by rclone, or give both one account.", nil)
		default:
			to.Env = append(to.Env, kv)
		}
	}
	to.Secrets = append(slices.Clone(to.Secrets), from.Secrets...)
	return to, nil
}

// withLogin is the same repository with the user and password of a REST server in its
// address. As variables, restic would use them for the server of the other one, too.
func (r Repository) withLogin() Repository {
	const user, password = "RESTIC_REST_USERNAME", "RESTIC_REST_PASSWORD"
	values := r.variables()
	where, err := address(values)
	location, rest := strings.CutPrefix(where, "rest:")
	if err != nil || !rest || values[user] == "" {
		return r
	}
	server, err := url.Parse(location)
	if err != nil || server.User != nil {
		return r
	}
	server.User = url.UserPassword(values[user], values[password])
	r.Env = slices.DeleteFunc(slices.Clone(r.Env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{user, password, repositoryVariable, repositoryFileVariable}, name)
	})
	with := "rest:" + server.String()
	r.Env = append(r.Env, repositoryVariable+"="+with)
	r.Secrets = append(slices.Clone(r.Secrets), credentials(with)...)
	return r
}
