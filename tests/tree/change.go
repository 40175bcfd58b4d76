package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Change appends a few random bytes to one regular file, chosen by the seed, and
// returns its path relative to root. Nothing else in the tree changes.
func Change(root string, seed int64) (changed string, err error) {
	if err := mustBeRoot("changing a tree"); err != nil {
		return "", err
	}
	files, err := changeable(root)
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%q holds no file that could be changed alone", root)
	}
	rng := newRand(seed)
	changed = files[rng.IntN(len(files))]
	content := part{length: 1 + rng.Int64N(4096), seed: rng.Uint64()}

	f, err := os.OpenFile(filepath.Join(root, changed), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	content.offset = info.Size()
	return changed, content.write(f)
}

// changeable lists, in a stable order, the regular files that can be appended to
// without changing anything else: a file with several names is several entries
// of the tree, and writing to a file takes its capabilities away.
func changeable(root string) ([]string, error) {
	top, err := inspect(root)
	if err != nil {
		return nil, err
	}
	var files []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		e, err := inspect(path)
		if err != nil {
			return err
		}
		if e.st.Mnt_id != top.st.Mnt_id {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.kind() != unix.S_IFREG || e.st.Nlink > 1 {
			return nil
		}
		attrs, err := xattrs(path)
		if err != nil {
			return err
		}
		if _, capable := attrs[capabilityXattr]; capable {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		files = append(files, rel)
		return err
	})
	return files, err
}

// newRand returns a generator that always yields the same for a seed.
func newRand(seed int64) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), 0))
}
