package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// mapping is an image that shows as a file. The kernel of a lab needs neither
// rbd nor nbd: QEMU's storage daemon serves the file through FUSE.
type mapping struct {
	lab  *Lab
	dir  string
	file string // the image
	root string // where its filesystem gets mounted
	loop string // device over the file while there is one
}

// mapImage maps an image that is where the volume's is.
func (v *Volume) mapImage(ctx context.Context, image string) (*mapping, error) {
	l := v.lab
	dir := l.path("volumes", newUUID()[:8])
	m := &mapping{lab: l, dir: dir, file: dir + "/disk", root: dir + "/root"}
	if err := os.MkdirAll(m.root, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.file, nil, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "qemu-storage-daemon",
		"--blockdev", "driver=rbd,node-name=image,pool="+v.Pool+",namespace="+v.RadosNamespace+",image="+image+",conf="+v.Ceph.Conf+",user=admin,discard=unmap",
		"--export", "type=fuse,id=file,node-name=image,mountpoint="+m.file+",writable=on,growable=off",
		"--pidfile", m.pidFile(), "--daemonize")
	cmd.Env = append(os.Environ(), l.ownEnv(partVolume)...)
	cmd.WaitDelay = 5 * time.Second
	if _, err := output(cmd, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("map image %s: %w", image, err), m.close(ctx))
	}
	return m, nil
}

func (m *mapping) pidFile() string { return m.dir + "/pid" }

// attach puts a loop device over the file.
func (m *mapping) attach(ctx context.Context) (device string, err error) {
	out, err := m.lab.Run(ctx, "losetup", "--find", "--show", m.file)
	m.loop = strings.TrimSpace(out)
	return m.loop, err
}

// mount mounts the image's filesystem. The loop device goes with the mount.
func (m *mapping) mount(ctx context.Context, fsType, options string) error {
	device, err := m.attach(ctx)
	if err != nil {
		return err
	}
	_, err = m.lab.Run(ctx, "mount", "-t", fsType, "-o", options, device, m.root)
	return errors.Join(err, m.detach(ctx))
}

// detach lets go of the loop device: at once, or when it is unmounted.
func (m *mapping) detach(ctx context.Context) error {
	if m.loop == "" {
		return nil
	}
	_, err := m.lab.Run(ctx, "losetup", "-d", m.loop)
	m.loop = ""
	return err
}

func (m *mapping) unmount() error {
	var err error
	for range 1200 {
		err = syscall.Unmount(m.root, 0)
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if errors.Is(err, syscall.EINVAL) {
		return nil // not mounted
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.root, err)
	}
	return nil
}

// close takes away all of the mapping: mount, loop device, file.
func (m *mapping) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if err := m.unmount(); err != nil {
		return err
	}
	if err := m.detach(ctx); err != nil {
		return err
	}
	if err := m.unused(); err != nil {
		return err
	}
	if err := m.endServer(); err != nil {
		return err
	}
	return os.RemoveAll(m.dir)
}

// unused waits until no loop device reads the file: the kernel lets go of it a
// moment after the unmount. Where the machine's root is no shared mount, which
// it is under systemd, a sandbox of another volume's backup may have a copy of
// the mount for as long as that backup takes.
func (m *mapping) unused() error {
	for range 6000 {
		devices, err := m.lab.loops()
		if err != nil {
			return err
		}
		busy := false
		for _, file := range devices {
			busy = busy || file == m.file
		}
		if !busy {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("a loop device still uses %s", m.file)
}

// endServer stops the storage daemon, which flushes the image and unmounts its
// file.
func (m *mapping) endServer() error {
	data, err := os.ReadFile(m.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil // it did not start
	}
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		return fmt.Errorf("%s: %w", m.pidFile(), err)
	}
	ours := func(p process) bool { return p.pid == pid }
	running, err := m.lab.processes(partVolume)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(running, ours) {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err := m.lab.awaitEnd(partVolume, "the storage daemon of "+m.file, ours); err != nil {
		return err
	}
	// One that was killed leaves the mount over its file.
	if err := syscall.Unmount(m.file, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("unmount %s: %w", m.file, err)
	}
	return nil
}
