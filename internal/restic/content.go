package restic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// Reading takes no lock: it works beside a prune and with an account that may only
// read, and one that is killed leaves nothing behind. What a prune takes away from
// under it makes it fail, and it is right again when it is repeated.
const reading = "--no-lock"

// Entry is a file, directory or the like in a backup.
type Entry struct {
	Path string `json:"path"`
	// Type is restic's: file, dir, symlink, dev, chardev, fifo or socket.
	Type string `json:"type"`
	// Size is in bytes, of files alone.
	Size uint64 `json:"size,omitempty"`
	// Permissions are as ls prints them.
	Permissions string    `json:"permissions"`
	UID         uint32    `json:"uid"`
	GID         uint32    `json:"gid"`
	Modified    time.Time `json:"mtime"`
}

// List calls each with a directory of a backup and what is in it, in the order of
// their names; with recursive also with all below. It does nothing when there is no
// such directory.
func (r Repository) List(ctx context.Context, run command.Runner, id, dir string, recursive bool, each func(Entry)) error {
	args := []string{reading}
	if recursive {
		args = append(args, "--recursive")
	}
	c := r.command("ls", append(args, "--", id, dir)...)
	c.OnLine = func(line []byte) {
		var m struct {
			Kind string `json:"message_type"`
			Entry
		}
		if json.Unmarshal(line, &m) == nil && m.Kind == "node" {
			each(m.Entry)
		}
	}
	_, err := r.run(ctx, run, c)
	return err
}

// ErrNotInBackup says that a backup holds nothing at a path.
var ErrNotInBackup = errors.New("the backup holds no such file")

var notInBackup = regexp.MustCompile(`cannot dump file: .*(?: not found in snapshot| should be a (?:file|dir), but is a )`)

// Dump writes a file of a backup to w; of a directory a tar archive. It returns
// ErrNotInBackup when there is neither, and the error of w when that ended it. A w that is
// an *os.File is restic's own standard output, and its errors are restic's.
func (r Repository) Dump(ctx context.Context, run command.Runner, id, path string, w io.Writer) error {
	c := r.plain("dump", reading, "--", id, path)
	out := &output{w: w}
	c.Stdout = out
	if file, ok := w.(*os.File); ok {
		c.Stdout = file
	}
	rep, err := r.run(ctx, run, c)
	switch {
	case out.err != nil:
		return out.err
	case err != nil && notInBackup.MatchString(rep.said.last):
		return fmt.Errorf("%w: %s", ErrNotInBackup, path)
	}
	return err
}

// output remembers why it could not be written to.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}

// Found is what a backup holds that was looked for.
type Found struct {
	ID      string  `json:"snapshot"`
	Matches []Entry `json:"matches"`
}

// Find looks in backups for names that match a pattern of restic's, like *.conf: in
// those of a host. Backups without any are left out.
func (r Repository) Find(ctx context.Context, run command.Runner, host, pattern string) ([]Found, error) {
	rep, err := r.run(ctx, run, r.command("find", reading, "--host", host, "--", pattern))
	if err != nil {
		return nil, err
	}
	var found []Found
	if err := json.Unmarshal(rep.stdout, &found); err != nil {
		return nil, fmt.Errorf("restic's list of files makes no sense: %w", err)
	}
	return found, nil
}

// Change is an entry in which two backups differ.
type Change struct {
	Path string `json:"path"`
	// Kind is restic's: + added, - removed, M content, U metadata, T type, ? damage.
	Kind string `json:"modifier"`
}

// Diff calls each with what differs between two backups, in the order of the paths.
func (r Repository) Diff(ctx context.Context, run command.Runner, from, to string, each func(Change)) error {
	c := r.command("diff", reading, "--metadata", "--", from, to)
	c.OnLine = func(line []byte) {
		var m struct {
			Kind string `json:"message_type"`
			Change
		}
		if json.Unmarshal(line, &m) == nil && m.Kind == "change" {
			each(m.Change)
		}
	}
	_, err := r.run(ctx, run, c)
	return err
}

// Node is an entry of a backup with what restic keeps of it, but for a file's content and
// attributes that are not restored.
type Node struct {
	Type       string      `json:"type"`
	Mode       fs.FileMode `json:"mode"`
	UID        uint32      `json:"uid"`
	GID        uint32      `json:"gid"`
	Modified   time.Time   `json:"mtime"`
	Accessed   time.Time   `json:"atime"`
	Attributes []Attribute `json:"extended_attributes"`
}

// Attribute is an extended attribute.
type Attribute struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Node returns an entry of a backup, which has a path other than /. It returns
// ErrNotInBackup when there is none.
func (r Repository) Node(ctx context.Context, run command.Runner, id, name string) (Node, error) {
	dir, base := path.Split(name)
	rep, err := r.run(ctx, run, r.plain("cat", reading, "tree", id+":"+path.Clean(dir)))
	if err != nil {
		if noSuchPath.MatchString(rep.said.last) {
			err = fmt.Errorf("%w: %s", ErrNotInBackup, name)
		}
		return Node{}, err
	}
	var tree struct {
		Nodes []struct {
			Name string `json:"name"`
			Node
		} `json:"nodes"`
	}
	if err := json.Unmarshal(rep.stdout, &tree); err != nil {
		return Node{}, fmt.Errorf("restic's account of the directory %s makes no sense: %w", dir, err)
	}
	for _, node := range tree.Nodes {
		if node.Name == base {
			node.Attributes = slices.DeleteFunc(node.Attributes, isUnfit)
			return node.Node, nil
		}
	}
	return Node{}, fmt.Errorf("%w: %s", ErrNotInBackup, name)
}

var noSuchPath = regexp.MustCompile(`path .*: not (?:found|a directory)$`)
