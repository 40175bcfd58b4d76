package restic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Key is one of those that open a repository, each with its own password.
type Key struct {
	ID string `json:"id"`
	// Current is the one that opened it this time.
	Current bool   `json:"current"`
	User    string `json:"userName"`
	Host    string `json:"hostName"`
	Created string `json:"created"`
}

// Keys lists all keys. One of them is the current one. It takes no lock.
func (r Repository) Keys(ctx context.Context, run command.Runner) ([]Key, error) {
	rep, err := r.run(ctx, run, r.command("key", "list", "--no-lock"))
	if err != nil {
		return nil, err
	}
	var keys []Key
	if err := json.Unmarshal(rep.stdout, &keys); err != nil {
		return nil, fmt.Errorf("reading the keys that restic lists: %w", err)
	}
	return keys, nil
}

// CurrentKey is the key that opens the repository.
func (r Repository) CurrentKey(ctx context.Context, run command.Runner) (Key, error) {
	keys, err := r.Keys(ctx, run)
	if err != nil {
		return Key{}, err
	}
	at := slices.IndexFunc(keys, func(k Key) bool { return k.Current })
	if at < 0 {
		return Key{}, fmt.Errorf("restic does not say which of %d keys opens the repository", len(keys))
	}
	return keys[at], nil
}

// passwordVariables say how a repository opens.
var passwordVariables = []string{passwordVariable, passwordFileVariable, "RESTIC_PASSWORD_COMMAND", "RESTIC_KEY_HINT"}

// WithPasswordFile is the same repository, opened by the password in a file.
func (r Repository) WithPasswordFile(file string) Repository {
	r.Env = slices.DeleteFunc(slices.Clone(r.Env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(passwordVariables, name)
	})
	r.Env = append(r.Env, passwordFileVariable+"="+file)
	return r
}

// AddKey makes the password in the file open the repository too, and returns its key
// once it has done so. A repeat finds the key. It is an InvalidInput failure if the
// file holds no password.
func (r Repository) AddKey(ctx context.Context, run command.Runner, file string) (Key, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return Key{}, refuse("the file of the new password cannot be read", "Name one that holds it.", err)
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return Key{}, refuse("the file of the new password is empty", "Write a password into "+file+".", nil)
	}
	next := r.WithPasswordFile(file)
	if key, err := next.CurrentKey(ctx, run); backup.ClassOf(err) != backup.RepositoryAuth {
		return key, err
	}
	if _, err := r.run(ctx, run, r.plain("key", "add", "--new-password-file", file)); err != nil {
		return Key{}, err
	}
	return next.CurrentKey(ctx, run)
}

// RemoveKey makes the password of a key open the repository no more. It needs the
// repository for itself for a moment; if it does not get that within a minute, that is
// a RepositoryLocked failure. The current key, and one that does not exist, are
// InvalidInput failures.
func (r Repository) RemoveKey(ctx context.Context, run command.Runner, id string) error {
	keys, err := r.Keys(ctx, run)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(keys, func(k Key) bool { return k.ID == id })
	switch {
	case at < 0:
		return refuse("the repository has no key "+id, "`restic key list` shows them.", nil)
	case keys[at].Current:
		return refuse("key "+id+" is the one that opens the repository here", "Set RESTIC_PASSWORD_FILE to the file of another key's password first.", nil)
	}
	_, err = r.run(ctx, run, r.plain("key", "remove", "--retry-lock", exclusivePatience.String(), "--", id))
	return err
}
