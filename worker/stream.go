package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/ceph"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"golang.org/x/sys/unix"
)

// streamCommand is what the worker calls itself with, through restic, to write a
// snapshot of an image as a QCOW2 file to standard output. It is not for people
// and not in the help.
const streamCommand = "stream-qcow2"

// streamRequest is the command's argument, as JSON. Arguments are seen by
// everybody on the machine, so it holds no secrets.
type streamRequest struct {
	Conf string `json:"conf,omitempty"`
	User string `json:"user,omitempty"`
	// CephArgs is the worker's CEPH_ARGS, which restic does not pass on.
	CephArgs string `json:"cephArgs,omitempty"`
	// The report that is asked for is a streamReport.
	activities.StreamRequest
	// Measure asks for the report alone.
	Measure bool `json:"measure,omitempty"`
}

// streamReport says what is in the QCOW2 file, before the first byte of it is
// written, and again when that failed.
type streamReport struct {
	// Size is that of the image, and Allocated how much of it holds data.
	Size      uint64 `json:"size"`
	Allocated uint64 `json:"allocated"`
	// Bytes is the length of the QCOW2 file.
	Bytes uint64 `json:"bytes"`
	// Failed says why the process failed; it is left when it did.
	Failed backup.Message `json:"failed"`
}

// stream is activities.Streamer for the images of a Ceph cluster.
type stream struct{ conf, user string }

// Command is activities.Streamer's.
func (s stream) Command(q activities.StreamRequest) []string {
	c := s.command(streamRequest{StreamRequest: q})
	return append([]string{c.Name}, c.Args...)
}

// Measure is activities.Streamer's.
func (s stream) Measure(q activities.StreamRequest) command.Command {
	return s.command(streamRequest{StreamRequest: q, Measure: true})
}

func (s stream) command(q streamRequest) command.Command {
	q.Conf, q.User, q.CephArgs = s.conf, s.user, os.Getenv("CEPH_ARGS")
	argument, err := json.Marshal(q)
	if err != nil {
		panic(err) // strings and booleans always marshal
	}
	// restic starts it, so /proc/self/exe would be restic.
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	return command.Command{Name: program, Args: []string{streamCommand, string(argument)}}
}

// Report is activities.Streamer's.
func (stream) Report(path string) (uint64, error) {
	report, err := readStreamReport(path)
	return report.Bytes, err
}

// Failure is activities.Streamer's.
func (stream) Failure(path string) error {
	// Without a report, restic's own account has to do.
	report, _ := readStreamReport(path)
	return report.Failed.Err()
}

// readStreamReport returns the zero report while there is none.
func readStreamReport(path string) (report streamReport, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return report, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &report)
	}
	if err != nil {
		return streamReport{}, fmt.Errorf("reading what is streamed: %w", err)
	}
	return report, nil
}

// streamMain is called first thing in main. In a process that is to stream it
// does so and never returns; otherwise it does nothing.
//
// The process ends with status 0 only when all of the file was written and the
// snapshot was there to the end. It ends with restic: at once when that dies, and
// at the latest when nobody reads any more.
func streamMain() {
	if len(os.Args) != 3 || os.Args[1] != streamCommand {
		return
	}
	if err := streamFor(os.Args[0], os.Args[2]); err != nil {
		// For a person who runs it; restic does not always read it to the end.
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// streamName is what the process calls itself once its environment is its own.
const streamName = "ammonite-stream"

func streamFor(name, argument string) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking to end with restic: %w", err)
	}
	var request streamRequest
	if err := json.Unmarshal([]byte(argument), &request); err != nil {
		return fmt.Errorf("reading what to stream: %w", err)
	}
	if name == streamName {
		// As much as an unprivileged process may have: less waking up for each other.
		// Standard output may also be no pipe.
		_, _ = unix.FcntlInt(os.Stdout.Fd(), unix.F_SETPIPE_SZ, 1<<20)
		return request.answer(context.Background(), os.Stdout)
	}
	err := syscall.Exec("/proc/self/exe", []string{streamName, streamCommand, argument}, request.environment())
	return fmt.Errorf("starting to stream: %w", err)
}

// environment is what the process needs of its environment, which restic gave it
// with all of its own secrets.
func (q streamRequest) environment() []string {
	env := memoryOfStreams()
	if q.CephArgs != "" {
		env = append(env, "CEPH_ARGS="+q.CephArgs)
	}
	for _, key := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// memoryOfStreams are variables that glibc reads at the start of a program. They keep the
// room of librbd's buffers, of an object each, which come and go, for the next ones.
// Without the first two, some streams map and unmap each buffer, and take three times as
// long; the third bounds how much room is kept, see mallopt(3).
func memoryOfStreams() []string {
	return []string{"MALLOC_MMAP_THRESHOLD_=33554432", "MALLOC_TRIM_THRESHOLD_=268435456", "MALLOC_ARENA_MAX=2"}
}

// answer does what is asked for by streamCommand, and leaves in the report why
// it could not.
func (q streamRequest) answer(ctx context.Context, out io.Writer) error {
	err := writeQCOW2(ctx, q, out)
	if err == nil {
		return nil
	}
	report, readErr := readStreamReport(q.Report)
	report.Failed = backup.MessageOf(err)
	return errors.Join(err, readErr, report.leave(q.Report))
}

// writeQCOW2 writes the QCOW2 file, and before its first byte the report.
func writeQCOW2(ctx context.Context, q streamRequest, out io.Writer) (err error) {
	cluster, err := ceph.Connect(ceph.Config{Conf: q.Conf, User: q.User, Streaming: true})
	if err != nil {
		return err
	}
	defer cluster.Close()
	snapshot, err := cluster.OpenSnapshot(ctx, q.Image, q.Snapshot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()

	layout, err := qcow2.NewLayout(snapshot.Size())
	if err != nil {
		return backup.Fail(backup.VolumeUnsupported, "streaming "+snapshot.String(), "", err)
	}
	if err := snapshot.Extents(ctx, layout.Add); err != nil {
		return err
	}
	report := streamReport{Size: snapshot.Size(), Allocated: layout.Allocated(), Bytes: layout.StreamSize()}
	if err := report.leave(q.Report); err != nil {
		return err
	}
	if q.Measure {
		return snapshot.CheckPresent(ctx)
	}
	extensions, err := keyMetadata(snapshot, q.Key)
	if err != nil {
		return err
	}
	written, err := qcow2.Write(ctx, out, layout, snapshot, qcow2.Options{Extensions: extensions})
	switch {
	case err != nil:
		return fmt.Errorf("streaming %s: %w", snapshot, err)
	case uint64(written) != report.Bytes:
		return fmt.Errorf("streaming %s: %d of %d bytes were written", snapshot, written, report.Bytes)
	}
	return snapshot.CheckPresent(ctx)
}

// keyMetadata is what ceph-csi noted at an encrypted image about its key, and by
// what it finds that, as an extension of the QCOW2 header; none for other images.
func keyMetadata(snapshot *ceph.SnapshotReader, key backup.Key) ([]qcow2.Extension, error) {
	metadata, err := snapshot.Metadata()
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(metadata, func(name, _ string) bool { return !strings.Contains(name, backup.MetadataCSI) })
	for name, value := range map[string]string{keyVolumeHandle: key.VolumeHandle, keyKMSID: key.KMSID} {
		if value != "" {
			metadata[name] = value
		}
	}
	if len(metadata) == 0 {
		return nil, nil
	}
	// The keys come out sorted: the same metadata make the same file.
	data, err := json.Marshal(metadata)
	return []qcow2.Extension{{Type: backup.HeaderExtensionCSI, Data: data}}, err
}

// What the extension holds of a backup.Key, beside names of image metadata.
const (
	keyVolumeHandle = "volumeHandle"
	keyKMSID        = "encryptionKMSID"
)

// leave writes the report in one step, so that nobody reads half of it.
func (r streamReport) leave(path string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing what is streamed: %w", err)
	}
	_, err = temporary.Write(text)
	err = errors.Join(err, temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing what is streamed: %w", err), os.Remove(temporary.Name()))
	}
	return nil
}
