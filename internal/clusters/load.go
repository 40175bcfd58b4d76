package clusters

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// entry is a cluster as it is configured.
type entry struct {
	Cluster
	monitors []string
	// conf is the text of the cluster's own ceph.conf; empty if it has none.
	conf    string
	keyring keyring
	// restore is the keyring for writing; empty if it is the same.
	restore keyring
	// missing says what keeps the cluster from being used; empty if nothing does.
	// ceph-csi's configuration may well have clusters that Ammonite has no
	// business with, so this is no fault until a volume is on one.
	missing string
}

// loader collects everything that is wrong, so that it is reported at once.
type loader struct {
	Clusters
	wrong []string
}

// Load reads the clusters' configuration, a directory as Kubernetes mounts it:
//
//   - config.json: ceph-csi's own
//   - CLUSTERID.conf: a whole ceph.conf, used instead of the monitors in
//     config.json
//   - CLUSTERID.keyring: the key of the one client in it. A cluster that lacks one
//     shares that of another ID with the same monitors
//   - CLUSTERID.restore.keyring: that of the client which writes the volumes that restores
//     make, if it is another one
//   - cluster-mapping.json: ceph-csi's own, for its IDs of clusters alone
//
// It writes a ceph.conf for each cluster into runDir, which it makes if necessary.
//
// It returns one InvalidInput failure that names all that is wrong. Keys are never
// part of it.
func Load(dir, runDir string) (*Clusters, error) {
	l := loader{Clusters: Clusters{dir: dir}}
	if problem := l.locate(); problem != "" {
		return nil, l.failure(problem)
	}
	l.readConfig()
	l.readMapping()
	l.readFiles()
	l.shareKeyrings()
	l.checkComplete()
	if len(l.wrong) > 0 {
		return nil, l.failure("\n  " + strings.Join(l.wrong, "\n  "))
	}
	for _, e := range l.entries {
		if e.missing != "" {
			continue
		}
		if err := e.writeConf(runDir); err != nil {
			return nil, err
		}
	}
	return &l.Clusters, nil
}

func (l *loader) failure(problems string) error {
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("the configuration of the Ceph clusters in %s is wrong: %s", l.dir, problems),
		"\ndocs/volumes.md describes the files.", nil)
}

func (l *loader) problem(file, format string, args ...any) {
	l.wrong = append(l.wrong, file+": "+fmt.Sprintf(format, args...))
}

// unsafePath are characters that would end or change a path in a ceph.conf.
var unsafePath = regexp.MustCompile(`[\x00-\x20\x7f,;#$"'\\]`)

// locate makes the directory's path absolute, since it goes into ceph.conf.
func (l *loader) locate() (problem string) {
	dir, err := filepath.Abs(l.dir)
	if err != nil {
		return err.Error()
	}
	l.dir = dir
	if info, err := os.Stat(dir); err != nil {
		return reason(err)
	} else if !info.IsDir() {
		return "it is not a directory"
	}
	if unsafePath.MatchString(dir) {
		return "a ceph.conf cannot hold this path; rename the directory"
	}
	return ""
}

// reason leaves out of a file's error the path, which the reader is told anyway.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// maxFile is as large as Kubernetes lets a ConfigMap or Secret be.
const maxFile = 1 << 20

// read returns the text of a file in the directory; ok is false if there is none,
// or none that can be read, which is then noted. What is no ordinary file could
// keep its reader waiting.
func (l *loader) read(name string) (text string, ok bool) {
	path := filepath.Join(l.dir, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", false
	case err != nil:
		l.problem(name, "%s", reason(err))
		return "", false
	case !info.Mode().IsRegular():
		l.problem(name, "it is not a file")
		return "", false
	case info.Size() > maxFile:
		l.problem(name, "it is larger than 1 MiB")
		return "", false
	}
	content, err := os.ReadFile(path)
	if err != nil {
		l.problem(name, "%s", reason(err))
	}
	return string(content), err == nil
}

// readFiles adds each cluster's own files to it.
func (l *loader) readFiles() {
	names, err := os.ReadDir(l.dir)
	if err != nil {
		l.wrong = append(l.wrong, reason(err))
	}
	for _, suffix := range []string{".conf", ".keyring"} {
		for _, name := range names {
			id, ok := strings.CutSuffix(name.Name(), suffix)
			// Kubernetes keeps what it mounts in directories that begin with "..".
			if !ok || strings.HasPrefix(id, "..") {
				continue
			}
			if !validID(id) {
				l.problem(fmt.Sprintf("%q", name.Name()), "%s", idRule)
				continue
			}
			if suffix == ".conf" {
				l.addConf(id, name.Name())
			} else {
				l.addKeyring(id, name.Name())
			}
		}
	}
}

// addConf also adds the cluster if config.json does not have it.
func (l *loader) addConf(id, name string) {
	text, ok := l.read(name)
	if !ok {
		return
	}
	if strings.TrimSpace(text) == "" {
		l.problem(name, "it is empty")
		return
	}
	e := l.byID(id)
	if e == nil {
		e = &entry{Cluster: Cluster{ID: id}}
		l.entries = append(l.entries, e)
	}
	e.conf = text
}

func (l *loader) addKeyring(id, name string) {
	text, ok := l.read(name)
	if !ok {
		return
	}
	e, field := l.byID(id), func(e *entry) *keyring { return &e.keyring }
	if cluster, ok := strings.CutSuffix(id, ".restore"); ok && e == nil {
		e, field = l.byID(cluster), func(e *entry) *keyring { return &e.restore }
	}
	if e == nil {
		l.problem(name, "neither config.json nor %s.conf has this cluster", id)
		return
	}
	user, err := clientOf(text)
	if err != nil {
		l.problem(name, "%v", err)
		return
	}
	*field(e) = keyring{user: user, path: filepath.Join(l.dir, name)}
}

// shareKeyrings gives clusters without a keyring that of the same Ceph cluster
// under another ID. Rook makes an ID for each RADOS namespace and subvolume group.
func (l *loader) shareKeyrings() {
	own := map[string][]*entry{}
	for _, e := range l.entries {
		if e.keyring.path != "" && len(e.monitors) > 0 {
			own[e.site()] = append(own[e.site()], e)
		}
	}
	for _, e := range l.entries {
		if same := own[e.site()]; e.keyring.path == "" && len(e.monitors) > 0 && len(same) == 1 {
			e.keyring, e.restore = same[0].keyring, same[0].restore
		}
	}
}

// site identifies the Ceph cluster itself, in whichever order its monitors stand.
func (e *entry) site() string { return strings.Join(slices.Sorted(slices.Values(e.monitors)), ",") }

// checkComplete finds out which clusters can be used.
func (l *loader) checkComplete() {
	var incomplete []string
	for _, e := range l.entries {
		switch {
		case e.conf == "" && len(e.monitors) == 0:
			e.missing = fmt.Sprintf("has neither monitors in config.json nor a %s.conf", e.ID)
		case e.keyring.path == "":
			e.missing = fmt.Sprintf("has no %s.keyring", e.ID)
		}
		if e.missing != "" {
			incomplete = append(incomplete, e.ID+": "+e.missing)
		}
	}
	switch {
	case len(l.wrong) > 0:
	case len(l.entries) == 0:
		l.wrong = append(l.wrong, "there is neither a config.json nor a CLUSTERID.conf with a cluster")
	case len(incomplete) == len(l.entries):
		l.wrong = incomplete
	}
}
