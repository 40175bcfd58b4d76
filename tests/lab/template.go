package lab

import (
	"context"
	"errors"
	"os"
)

// MakeExt4 makes a file with an ext4 of that size, filled by populate: for the
// Import of volumes.
func (l *Lab) MakeExt4(ctx context.Context, file string, size int64, populate func(root string) error) (err error) {
	content, err := os.MkdirTemp("", "template-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(content)) }()
	if err := populate(content); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(file, size); err != nil {
		return err
	}
	_, err = l.Run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", "-d", content, file)
	return err
}
