package restic

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

var (
	// understood are the prefixes of the variables that restic and the programs
	// and libraries below it read.
	understood = []string{"RESTIC_", "AWS_", "AZURE_", "B2_", "GOOGLE_", "OS_", "ST_", "SWIFT_", "RCLONE_", "SSL_CERT_"}
	// alsoUnderstood are single names: the way to the server.
	alsoUnderstood = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSH_AUTH_SOCK"}
	// ours are set for each command. RESTIC_HOST would also filter lists.
	ours = []string{"RESTIC_HOST", "RESTIC_PROGRESS_FPS", "RESTIC_CACHE_DIR"}
	// secretNames end the names of variables that hold secrets by value.
	secretNames = []string{"PASSWORD", "PASS", "SECRET", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "ACCESS_TOKEN", "AUTH_TOKEN",
		"ACCOUNT_KEY", "ACCOUNT_SAS", "ST_KEY", "_TOKEN"}
)

// Where the repository is, and what opens it: each itself, or a file that holds it.
const (
	repositoryVariable     = "RESTIC_REPOSITORY"
	repositoryFileVariable = "RESTIC_REPOSITORY_FILE"
	passwordVariable       = "RESTIC_PASSWORD"
	passwordFileVariable   = "RESTIC_PASSWORD_FILE"
)

// shortestSecret is the length in bytes from which a secret is blotted out. A
// shorter one protects nothing, and blotting it out would spoil every message.
const shortestSecret = 4

// FromEnvironment makes a Repository of the variables that restic understands
// (its manual lists them under "Environment variables"), chosen from environ,
// which has the form of os.Environ. RESTIC_CACHE_DIR becomes the Cache.
//
// It is an InvalidInput failure, which names each variable, if no repository or
// no source of its password is given, or a file that is named cannot be read.
func FromEnvironment(environ []string) (Repository, error) {
	var r Repository
	values := map[string]string{}
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		if value == "" || !isUnderstood(key) {
			continue
		}
		values[key] = value
		if slices.Contains(ours, key) {
			continue
		}
		r.Env = append(r.Env, kv)
		if slices.ContainsFunc(secretNames, func(s string) bool { return strings.HasSuffix(key, s) }) {
			r.Secrets = append(r.Secrets, value)
		}
	}
	r.Cache = values["RESTIC_CACHE_DIR"]

	address, err := address(values)
	if err := errors.Join(err, checkPassword(values)); err != nil {
		return Repository{}, err
	}
	r.Secrets = append(r.Secrets, credentials(address)...)
	r.Secrets = slices.DeleteFunc(r.Secrets, func(s string) bool { return len(s) < shortestSecret })
	return r, nil
}

// Given reports whether environ says where a repository is.
func Given(environ []string) bool {
	return slices.ContainsFunc(environ, func(kv string) bool {
		key, value, _ := strings.Cut(kv, "=")
		return value != "" && (key == repositoryVariable || key == repositoryFileVariable)
	})
}

func isUnderstood(key string) bool {
	return slices.Contains(alsoUnderstood, key) ||
		slices.ContainsFunc(understood, func(p string) bool { return strings.HasPrefix(key, p) })
}

// address is where the repository is.
func address(values map[string]string) (string, error) {
	given, file := values[repositoryVariable], values[repositoryFileVariable]
	switch {
	case given != "" && file != "":
		return "", refuse("RESTIC_REPOSITORY and RESTIC_REPOSITORY_FILE are both set", "Unset one of them.", nil)
	case given != "":
		return given, nil
	case file == "":
		return "", refuse("RESTIC_REPOSITORY is not set", "Set it, or RESTIC_REPOSITORY_FILE, to where the backups are, for example rest:https://backup.example.org/cluster.", nil)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", refuse("RESTIC_REPOSITORY_FILE cannot be read", "It must name a readable file that holds the repository's address.", err)
	}
	return strings.TrimSpace(string(content)), nil
}

func checkPassword(values map[string]string) error {
	if values[passwordVariable] != "" || values["RESTIC_PASSWORD_COMMAND"] != "" {
		return nil
	}
	file := values[passwordFileVariable]
	if file == "" {
		return refuse("RESTIC_PASSWORD_FILE is not set", "Set it, or RESTIC_PASSWORD_COMMAND or RESTIC_PASSWORD, to what opens the repository.", nil)
	}
	f, err := os.Open(file)
	if err != nil {
		return refuse("RESTIC_PASSWORD_FILE cannot be read", "It must name a readable file that holds the repository's password.", err)
	}
	return f.Close()
}

func refuse(what, remedy string, cause error) error {
	return backup.Fail(backup.InvalidInput, what, remedy, cause)
}

// credentials are the secrets inside an address such as
// rest:https://user:password@host/, as they are written and as they are meant.
func credentials(address string) []string {
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return nil
	}
	authority, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndex(authority, "@")
	if at < 0 {
		return nil
	}
	_, written, ok := strings.Cut(authority[:at], ":")
	if !ok || written == "" {
		return nil
	}
	secrets := []string{written}
	if meant, err := url.PathUnescape(written); err == nil && meant != written {
		secrets = append(secrets, meant)
	}
	return secrets
}

// String names the program and hides everything else, so that a Repository
// that is printed by accident gives away no secret.
func (r Repository) String() string {
	return fmt.Sprintf("restic repository (%d variables)", len(r.Env))
}

// GoString is String, for %#v.
func (r Repository) GoString() string { return r.String() }
