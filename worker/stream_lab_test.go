//go:build lab

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// imageSize is a multiple of no cluster and no object.
const imageSize = 21<<20 + 512

// program runs one of Ceph's or qemu's.
func program(t *testing.T, stdin []byte, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// newSnapshot asks for the stream of an image with holes, data and an end that is
// aligned to nothing, and returns that as a file, too.
func newSnapshot(t *testing.T) (request streamRequest, raw string) {
	t.Helper()
	dir := t.TempDir()
	content := make([]byte, imageSize)
	for _, r := range [][2]int{{1 << 20, 3 << 20}, {20<<20 - 100, imageSize}} {
		_, _ = rand.Read(content[r[0]:r[1]]) // crypto/rand never fails
	}
	request = streamRequest{
		Conf: os.Getenv("CEPH_CONF"),
		StreamRequest: activities.StreamRequest{
			Image: backup.Image{Pool: "rbd", Name: "stream-" + uuid.NewString()}, Snapshot: "s", Report: filepath.Join(dir, "report.json"),
		},
	}
	raw = filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(raw, content, 0o600))
	spec := request.Image.String()
	program(t, nil, "rbd", "import", "--no-progress", raw, spec)
	t.Cleanup(func() {
		program(t, nil, "rbd", "snap", "purge", "--no-progress", spec)
		program(t, nil, "rbd", "rm", "--no-progress", spec)
	})
	program(t, nil, "rbd", "snap", "create", "--no-progress", spec+"@s")
	return request, raw
}

func TestTheStreamIsTheSnapshotAsQCOW2(t *testing.T) {
	request, raw := newSnapshot(t)
	var out bytes.Buffer
	require.NoError(t, writeQCOW2(t.Context(), request, &out))
	announced, err := stream{}.Report(request.Report)
	require.NoError(t, err)
	require.EqualValues(t, out.Len(), announced)

	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, os.WriteFile(disk, out.Bytes(), 0o600))
	program(t, nil, "qemu-img", "check", "-f", "qcow2", disk)
	program(t, nil, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, raw)
	header, err := qcow2.ReadHeader(&out)
	require.NoError(t, err)
	require.Empty(t, header.Extensions)
}

func TestMeasuringStreamsNothing(t *testing.T) {
	request, _ := newSnapshot(t)
	var whole, none bytes.Buffer
	require.NoError(t, writeQCOW2(t.Context(), request, &whole))
	require.NoError(t, os.Remove(request.Report))
	request.Measure = true
	require.NoError(t, writeQCOW2(t.Context(), request, &none))
	require.Zero(t, none.Len())
	announced, err := stream{}.Report(request.Report)
	require.NoError(t, err)
	require.EqualValues(t, whole.Len(), announced)
}

func TestTheStreamHoldsWhatOpensAnEncryptedImage(t *testing.T) {
	request, _ := newSnapshot(t)
	want := map[string]string{"rbd.csi.ceph.com/encrypted": "encrypted", "rbd.csi.ceph.com/dek": `{"wrapped":"key"}`}
	for key, value := range want {
		program(t, nil, "rbd", "image-meta", "set", request.Image.String(), key, value)
	}
	request.Key = backup.Key{VolumeHandle: "0001-0009-rook-ceph-1", KMSID: "vault"}
	want["volumeHandle"], want["encryptionKMSID"] = request.Key.VolumeHandle, request.Key.KMSID
	program(t, nil, "rbd", "image-meta", "set", request.Image.String(), "csi.storage.k8s.io/pv/name", "pvc-1")
	var out, again bytes.Buffer
	require.NoError(t, writeQCOW2(t.Context(), request, &out))
	require.NoError(t, writeQCOW2(t.Context(), request, &again))
	require.True(t, bytes.Equal(out.Bytes(), again.Bytes()))
	header, err := qcow2.ReadHeader(&out)
	require.NoError(t, err)
	require.Len(t, header.Extensions, 1)
	require.EqualValues(t, backup.HeaderExtensionCSI, header.Extensions[0].Type)
	var got map[string]string
	require.NoError(t, json.Unmarshal(header.Extensions[0].Data, &got))
	require.Equal(t, want, got)
}

// during does something once, in the midst of the stream.
type during struct {
	bytes.Buffer
	do func()
}

func (d *during) Write(p []byte) (int, error) {
	if d.do != nil && d.Len() > 1<<20 {
		d.do()
		d.do = nil
	}
	return d.Buffer.Write(p)
}

func TestASnapshotThatVanishesInTheMidstFailsTheStream(t *testing.T) {
	request, _ := newSnapshot(t)
	out := &during{do: func() {
		program(t, nil, "rbd", "snap", "rm", "--no-progress", request.Image.String()+"@s")
	}}
	err := request.answer(t.Context(), out)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	require.Nil(t, out.do)
	announced, err := stream{}.Report(request.Report)
	require.NoError(t, err)
	require.NotZero(t, announced, "the length that was left before stays")
	require.Equal(t, backup.VolumeGone, backup.ClassOf(stream{}.Failure(request.Report)))
}

func TestAStreamThatIsCancelledFails(t *testing.T) {
	request, _ := newSnapshot(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := writeQCOW2(ctx, request, &during{do: cancel})
	require.ErrorIs(t, err, context.Canceled)
}

func TestASnapshotThatDoesNotExistLeavesNoLength(t *testing.T) {
	request, _ := newSnapshot(t)
	request.Snapshot = "other"
	err := request.answer(t.Context(), &bytes.Buffer{})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	announced, err := stream{}.Report(request.Report)
	require.NoError(t, err)
	require.Zero(t, announced)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(stream{}.Failure(request.Report)))
}
