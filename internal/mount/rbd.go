package mount

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// rbdMapper maps by `rbd device`: through the kernel's own client (krbd), or
// through rbd-nbd.
type rbdMapper struct {
	kind string
	ceph Ceph
}

// Name returns krbd or nbd.
func (m rbdMapper) Name() string { return m.kind }

// Map asks rbd for a mapping of the image, and makes one if there is none.
func (m rbdMapper) Map(ctx context.Context, r command.Runner, image backup.Image, dir string) (Device, error) {
	rec, err := claim(dir, m.kind, image, m.ceph)
	if err != nil {
		return Device{}, err
	}
	// Images of Ammonite belong to one lease, so a mapping that is there is ours.
	path, err := m.find(ctx, r, image)
	if err != nil {
		return Device{}, err
	}
	if path == "" {
		res, err := r.Run(ctx, command.Command{Name: "rbd", Args: m.mapArgs(image)})
		if err != nil {
			return Device{}, explainMap(image, err)
		}
		path = strings.TrimSpace(string(res.Stdout))
	}
	if !strings.HasPrefix(path, "/dev/") {
		return Device{}, fmt.Errorf("map %s: rbd names no device but %q", image, path)
	}
	rec.Device = path
	if err := writeRecord(dir, rec); err != nil {
		return Device{}, err
	}
	return Device{Path: path, Mapper: m.kind, Dir: dir}, nil
}

// mapArgs gives names as --option=value, so that none can be taken for an
// option.
func (m rbdMapper) mapArgs(image backup.Image) []string {
	args := []string{"device", "map", "--device-type=" + m.kind}
	if m.ceph.Conf != "" {
		args = append(args, "--conf="+m.ceph.Conf)
	}
	if m.ceph.User != "" {
		args = append(args, "--id="+m.ceph.User)
	}
	args = append(args, "--pool="+image.Pool)
	if image.Namespace != "" {
		args = append(args, "--namespace="+image.Namespace)
	}
	args = append(args, "--image="+image.Name)
	if m.kind == KRBD {
		// A cluster that is full must fail the journal's replay, not block it in
		// the kernel for ever.
		args = append(args, "--options=abort_on_full"+udevOption())
	}
	return args
}

// udevOption keeps rbd from waiting for a udev that is not there.
func udevOption() string {
	if _, err := os.Stat("/run/udev/control"); errors.Is(err, fs.ErrNotExist) {
		return ",noudev"
	}
	return ""
}

// Unmap undoes the mapping. While the device is busy, it tries again for some
// seconds.
func (m rbdMapper) Unmap(ctx context.Context, r command.Runner, dir string) error {
	rec, found, err := readRecord(dir)
	if err != nil || !found {
		return err
	}
	path, err := m.find(ctx, r, rec.Image)
	if err != nil {
		return err
	}
	if path != "" {
		if err := m.unmapDevice(ctx, r, path); err != nil {
			return fmt.Errorf("unmap %s: %w", rec.Image, err)
		}
	}
	return removeRecord(dir)
}

func (m rbdMapper) unmapDevice(ctx context.Context, r command.Runner, path string) error {
	args := []string{"device", "unmap", "--device-type=" + m.kind}
	if m.kind == KRBD {
		if o := udevOption(); o != "" {
			args = append(args, "--options="+strings.TrimPrefix(o, ","))
		}
	}
	return whileBusy(ctx, func() error {
		_, err := r.Run(ctx, command.Command{Name: "rbd", Args: append(args, path)})
		return err
	}, func(err error) bool { return command.ExitCode(err) == int(syscall.EBUSY) })
}

// mapping is one entry of `rbd device list --format=json`. krbd calls the image
// name, rbd-nbd image.
type mapping struct {
	Pool      string `json:"pool"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	ImageName string `json:"image"`
	Snap      string `json:"snap"`
	Device    string `json:"device"`
}

func (m mapping) image() backup.Image {
	return backup.Image{Pool: m.Pool, Namespace: m.Namespace, Name: cmp.Or(m.Name, m.ImageName)}
}

func (m rbdMapper) list(ctx context.Context, r command.Runner) ([]mapping, error) {
	res, err := r.Run(ctx, command.Command{Name: "rbd", Args: []string{"device", "list", "--device-type=" + m.kind, "--format=json"}})
	if err != nil {
		return nil, fmt.Errorf("list the mapped images: %w", err)
	}
	if len(strings.TrimSpace(string(res.Stdout))) == 0 {
		return nil, nil
	}
	var list []mapping
	if err := json.Unmarshal(res.Stdout, &list); err != nil {
		return nil, fmt.Errorf("list the mapped images: %w", err)
	}
	return list, nil
}

// find returns the device to which the image itself is mapped, or "".
func (m rbdMapper) find(ctx context.Context, r command.Runner, image backup.Image) (string, error) {
	list, err := m.list(ctx, r)
	if err != nil {
		return "", err
	}
	for _, e := range list {
		if e.image() == image && (e.Snap == "" || e.Snap == "-") {
			return e.Device, nil
		}
	}
	return "", nil
}

// checkImage refuses names that the programs would read as something else than
// a name. Ceph allows none of them.
func checkImage(image backup.Image) error {
	if image.Pool == "" || image.Name == "" || strings.ContainsAny(image.Pool+image.Namespace+image.Name, "/@\x00") {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%q is not the name of an RBD image", image), "", nil)
	}
	return nil
}

// busyPauses are between tries while something is busy: ten seconds in all.
var busyPauses = []time.Duration{
	50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond,
	time.Second, time.Second, 2 * time.Second, 2 * time.Second, 3 * time.Second,
}

// whileBusy repeats try as long as it fails with an error that busy knows, for
// a bounded time.
func whileBusy(ctx context.Context, try func() error, busy func(error) bool) error {
	for _, pause := range busyPauses {
		err := try()
		if err == nil || !busy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
	return try()
}
