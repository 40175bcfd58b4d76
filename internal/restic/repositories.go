package restic

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Repositories are those that a process was given, by name: one in its environment,
// and others in a directory, each as a Secret is mounted. A directory is read anew each
// time, so a password that changes in it is used from then on.
type Repositories struct {
	// Default is the one in the environment; nil if that tells of none.
	Default *Repository
	// Dir holds a directory for each of the others, of their names; empty for none.
	Dir string
	// Binary is the restic program, Cache restic's cache directory; see Repository.
	Binary, Cache string
}

// RepositoriesFromEnvironment finds all repositories: the default in environ, see
// FromEnvironment, and the others in dir. It is an InvalidInput failure, which names
// everything that is wrong, if one of them cannot be used.
func RepositoriesFromEnvironment(environ []string, dir string) (Repositories, error) {
	all := Repositories{Dir: dir}
	var wrong error
	if Given(environ) {
		r, err := FromEnvironment(environ)
		all.Default, wrong = &r, err
		if all.listed(backup.DefaultRepository) {
			wrong = errors.Join(wrong, refuse("the repository "+backup.DefaultRepository+" is given twice",
				"Unset RESTIC_REPOSITORY, or remove "+filepath.Join(dir, backup.DefaultRepository)+".", nil))
		}
	}
	names, err := all.Names()
	wrong = errors.Join(wrong, err)
	for _, name := range names {
		if _, err := all.Find(name); err != nil {
			wrong = errors.Join(wrong, err)
		}
	}
	return all, wrong
}

// Names lists all repositories, the default first.
func (r Repositories) Names() ([]string, error) {
	var names []string
	if r.Default != nil || r.listed(backup.DefaultRepository) {
		names = append(names, backup.DefaultRepository)
	}
	if r.Dir == "" {
		return names, nil
	}
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return names, refuse("the directory of repositories cannot be read", "AMMONITE_REPOSITORIES must name one that holds a directory for each.", err)
	}
	for _, e := range entries {
		// A mounted volume of Kubernetes has directories of its own, all with a dot.
		name := e.Name()
		if name == backup.DefaultRepository || strings.HasPrefix(name, ".") || !r.listed(name) {
			continue
		}
		if err := backup.ValidateRepository(name); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

// listed reports whether there is a directory for the repository.
func (r Repositories) listed(name string) bool {
	info, err := os.Stat(filepath.Join(r.Dir, name))
	return r.Dir != "" && err == nil && info.IsDir()
}

// Find returns the repository of that name; an empty one is the default's. It is a
// RepositoryMissing failure if none is called so, and an InvalidInput one if it cannot be
// used, or no default was given.
func (r Repositories) Find(name string) (Repository, error) {
	name = backup.RepositoryName(name)
	if err := backup.ValidateRepository(name); err != nil {
		return Repository{}, err
	}
	var found Repository
	switch {
	case name == backup.DefaultRepository && r.Default != nil:
		found = *r.Default
	case r.listed(name):
		var err error
		if found, err = FromDirectory(filepath.Join(r.Dir, name)); err != nil {
			return Repository{}, fmt.Errorf("repository %s: %w", name, err)
		}
	case name == backup.DefaultRepository:
		return Repository{}, ErrNoRepository
	default:
		return Repository{}, backup.Fail(backup.RepositoryMissing, "there is no repository "+name+" here",
			"AMMONITE_REPOSITORIES must name a directory with one called "+name+", on all workers: see docs/repositories.md.", nil)
	}
	if r.Cache != "" {
		found.Cache = r.Cache
	}
	if r.Binary != "" {
		found.Binary = r.Binary
	}
	return found, nil
}

// ErrNoRepository is the InvalidInput failure of whoever was given no repository.
var ErrNoRepository = refuse("no repository was given",
	"Set RESTIC_REPOSITORY and RESTIC_PASSWORD_FILE; control workers need an account that may remove backups, or their schedules of upkeep disabled.", nil)

// filesNamed are the variables whose values are paths. In a directory they may be
// relative to it.
var filesNamed = []string{repositoryFileVariable, passwordFileVariable, "RESTIC_CACERT", "RESTIC_TLS_CLIENT_CERT", "AWS_SHARED_CREDENTIALS_FILE",
	"AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "RCLONE_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// FromDirectory makes a Repository of a directory whose files are called as restic's
// variables and hold their values, as those of a Secret that is mounted. Other files
// there are for variables to name. The proxies of this process are the repository's,
// unless it has its own. The failures are those of FromEnvironment.
func FromDirectory(dir string) (Repository, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return Repository{}, refuse("its directory cannot be read", "", err)
	}
	var environ []string
	for _, name := range alsoUnderstood {
		environ = append(environ, name+"="+os.Getenv(name))
	}
	for _, file := range files {
		name := file.Name()
		if !isUnderstood(name) {
			continue
		}
		// Reading follows links, which the files of a mounted Secret are.
		path := filepath.Join(dir, name)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // by now
		}
		if err != nil {
			return Repository{}, refuse(name+" cannot be read", "", err)
		}
		value := string(bytes.TrimRight(content, "\r\n"))
		switch {
		case name == passwordVariable && value != "":
			// restic reads the file itself: the password is in no environment.
			name, value = passwordFileVariable, path
		case slices.Contains(filesNamed, name) && value != "" && !filepath.IsAbs(value):
			value = filepath.Join(dir, value)
		}
		environ = append(environ, name+"="+value)
	}
	return FromEnvironment(environ)
}

// Address is where the repository is, without credentials; empty if that is not known.
func (r Repository) Address() string {
	where, err := address(r.variables())
	if err != nil {
		return ""
	}
	scheme, rest, ok := strings.Cut(where, "://")
	if !ok {
		return where
	}
	authority, path, slash := strings.Cut(rest, "/")
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		authority = authority[at+1:]
	}
	if slash {
		path = "/" + path
	}
	return scheme + "://" + authority + path
}
