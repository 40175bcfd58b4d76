package mount

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

var (
	clone = backup.Image{Pool: "scratch", Name: "ammonite-0b5ff1d2-6a1b-4c3d-8e9f-001122334455-1"}
	lab   = Ceph{Conf: "/etc/ceph/ceph.conf", User: "ammonite"}
)

// script is a runner that answers each command line with what was written down
// for it, and fails the test for any other.
type script struct {
	t       *testing.T
	answers []answer
	ran     int
}

type answer struct {
	line   string
	stdout string
	stderr string
	code   int
}

func (s *script) Run(_ context.Context, c command.Command) (command.Result, error) {
	s.t.Helper()
	line := strings.Join(append([]string{c.Name}, c.Args...), " ")
	require.Less(s.t, s.ran, len(s.answers), "an unexpected command: %s", line)
	a := s.answers[s.ran]
	s.ran++
	require.Equal(s.t, a.line, line)
	res := command.Result{Stdout: []byte(a.stdout), Stderr: a.stderr, ExitCode: a.code}
	if a.code != 0 {
		return res, &command.ExitError{Name: c.Name, Code: a.code, Stderr: a.stderr}
	}
	return res, nil
}

// runs returns a script, all of which has to be run.
func runs(t *testing.T, answers ...answer) *script {
	s := &script{t: t, answers: answers}
	t.Cleanup(func() { require.Equal(t, len(answers), s.ran, "commands that were run") })
	return s
}

// noWait takes the pauses out of tests of retries.
func noWait(t *testing.T) {
	pauses := busyPauses
	busyPauses = make([]time.Duration, 2)
	t.Cleanup(func() { busyPauses = pauses })
}

// krbdOptions are what mapping on this machine takes, with or without udev.
var krbdOptions = " --options=abort_on_full" + udevOption()

const (
	listKRBD = "rbd device list --device-type=krbd --format=json"
	listNBD  = "rbd device list --device-type=nbd --format=json"
)

func TestKRBDMapsOnceAndUnmaps(t *testing.T) {
	noWait(t)
	dir := t.TempDir()
	m := rbdMapper{kind: KRBD, ceph: lab}
	mapped := `[{"id":"0","pool":"scratch","namespace":"","name":"other","snap":"-","device":"/dev/rbd0"},
		{"id":"1","pool":"scratch","namespace":"","name":"` + clone.Name + `","snap":"s","device":"/dev/rbd1"},
		{"id":"2","pool":"scratch","namespace":"","name":"` + clone.Name + `","snap":"-","device":"/dev/rbd2"}]`
	want := Device{Path: "/dev/rbd2", Mapper: KRBD, Dir: dir}

	dev, err := m.Map(t.Context(), runs(t,
		answer{line: listKRBD, stdout: "[]"},
		answer{line: "rbd device map --device-type=krbd --conf=/etc/ceph/ceph.conf --id=ammonite --pool=scratch --image=" + clone.Name + krbdOptions, stdout: "/dev/rbd2\n"},
	), clone, dir)
	require.NoError(t, err)
	require.Equal(t, want, dev)

	dev, err = m.Map(t.Context(), runs(t, answer{line: listKRBD, stdout: mapped}), clone, dir)
	require.NoError(t, err)
	require.Equal(t, want, dev)

	unmap := "rbd device unmap --device-type=krbd" + strings.Replace(udevOption(), ",", " --options=", 1) + " /dev/rbd2"
	require.NoError(t, m.Unmap(t.Context(), runs(t,
		answer{line: listKRBD, stdout: mapped},
		answer{line: unmap, code: 16, stderr: "rbd: unmap failed: (16) Device or resource busy"},
		answer{line: unmap},
	), dir))
	require.NoFileExists(t, filepath.Join(dir, recordFile))
	require.NoError(t, m.Unmap(t.Context(), runs(t), dir), "again")
}

func TestUnmapUndoesAMappingThatWasHalfMade(t *testing.T) {
	dir := t.TempDir()
	m := rbdMapper{kind: NBD}
	_, err := m.Map(t.Context(), runs(t,
		answer{line: listNBD},
		answer{line: "rbd device map --device-type=nbd --pool=scratch --namespace=team --image=" + clone.Name, code: 110, stderr: "timed out"},
	), backup.Image{Pool: "scratch", Namespace: "team", Name: clone.Name}, dir)
	require.ErrorContains(t, err, "timed out")
	require.FileExists(t, filepath.Join(dir, recordFile))

	require.NoError(t, m.Unmap(t.Context(), runs(t,
		answer{line: listNBD, stdout: `[{"id":77,"pool":"scratch","namespace":"team","image":"` + clone.Name + `","snap":"-","device":"/dev/nbd3"}]`},
		answer{line: "rbd device unmap --device-type=nbd /dev/nbd3"},
	), dir))
}

func TestUnmapGivesUpOnADeviceThatStaysBusy(t *testing.T) {
	noWait(t)
	dir := t.TempDir()
	require.NoError(t, writeRecord(dir, record{Mapper: NBD, Image: clone}))
	busy := answer{line: "rbd device unmap --device-type=nbd /dev/nbd3", code: 16, stderr: "busy"}
	err := rbdMapper{kind: NBD}.Unmap(t.Context(), runs(t,
		answer{line: listNBD, stdout: `[{"pool":"scratch","image":"` + clone.Name + `","device":"/dev/nbd3"}]`}, busy, busy, busy,
	), dir)
	require.ErrorContains(t, err, "busy")
	require.FileExists(t, filepath.Join(dir, recordFile), "to try again")
}

func TestALeaseMapsOneImageOnly(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, writeRecord(dir, record{Mapper: KRBD, Image: clone}))
	_, err := rbdMapper{kind: KRBD}.Map(t.Context(), runs(t), backup.Image{Pool: "scratch", Name: "other"}, dir)
	require.ErrorContains(t, err, "already holds "+clone.String())
}

func TestMapRefusesWhatIsNoName(t *testing.T) {
	for _, image := range []backup.Image{{Pool: "p", Name: "a@b"}, {Pool: "p/n", Name: "a"}, {Pool: "p"}, {Name: "a"}, {Pool: "p", Namespace: "n/", Name: "a"}} {
		for _, m := range []Mapper{rbdMapper{kind: KRBD}, fuseMapper{}} {
			_, err := m.Map(t.Context(), runs(t), image, t.TempDir())
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%v", image)
		}
	}
}

func TestFUSEDescribesTheImageAsJSON(t *testing.T) {
	// Commas and quotes separate options in qemu's other syntax.
	args, err := fuseMapper{ceph: lab}.args(backup.Image{Pool: "a,b", Namespace: "team", Name: `c",d=e`}, "/lease")
	require.NoError(t, err)
	require.Equal(t, []string{"--blockdev", "--export", "--daemonize", "--pidfile"}, []string{args[0], args[2], args[4], args[5]})
	require.Equal(t, "/lease/qemu-storage-daemon.pid", args[6])
	var block, export map[string]any
	require.NoError(t, json.Unmarshal([]byte(args[1]), &block))
	require.NoError(t, json.Unmarshal([]byte(args[3]), &export))
	require.Equal(t, map[string]any{
		"driver": "rbd", "node-name": "volume", "pool": "a,b", "namespace": "team", "image": `c",d=e`,
		"conf": "/etc/ceph/ceph.conf", "user": "ammonite",
	}, block)
	require.Equal(t, map[string]any{
		"type": "fuse", "id": "export", "node-name": "volume", "mountpoint": "/lease/volume", "writable": true,
	}, export)
}

// machine is a node with the named files, programs and modules.
type machine map[string]bool

func (m machine) exists(path string) bool  { return m[path] }
func (m machine) program(name string) bool { return m[name] }
func (m machine) load(module string) bool  { return m["module "+module] }

func TestNewMapperChoosesWhatTheNodeCanDo(t *testing.T) {
	fuse := machine{"qemu-storage-daemon": true, "/dev/fuse": true, "/dev/loop-control": true}
	with := func(more ...string) machine {
		m := machine{}
		for k := range fuse {
			m[k] = true
		}
		for _, k := range more {
			m[k] = true
		}
		return m
	}
	for _, test := range []struct {
		name, kind, want, refused string
		node                      machine
	}{
		{name: "the kernel's client", kind: Auto, node: with("rbd", "/sys/bus/rbd", "rbd-nbd", "/sys/module/nbd"), want: KRBD},
		{name: "the kernel's client, not loaded yet", node: with("rbd", "module rbd"), want: KRBD},
		{name: "rbd-nbd", node: with("rbd", "rbd-nbd", "module nbd"), want: NBD},
		{name: "rbd-nbd without its module", node: with("rbd", "rbd-nbd"), want: FUSE},
		{name: "nothing", node: machine{"/dev/fuse": true}, refused: "this node can map RBD images in no way (krbd: the program rbd is missing"},
		{name: "as told", kind: FUSE, node: with("rbd", "/sys/bus/rbd"), want: FUSE},
		{name: "told what it cannot do", kind: KRBD, node: with("rbd"), refused: "the mapper krbd cannot work on this node: the kernel module rbd is not loaded"},
		{name: "told nonsense", kind: "iscsi", node: fuse, refused: `there is no mapper "iscsi": choose auto, krbd, nbd or fuse`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := newMapper(test.kind, lab, test.node)
			if test.refused != "" {
				require.ErrorContains(t, err, test.refused)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, m.Name())
		})
	}
}

func TestParseMountsReadsBlanksAndBackslashes(t *testing.T) {
	info := `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
99 27 0:44 / /a\040b\134c rw - tmpfs ammonite:/x\040y rw
`
	require.Equal(t, []mountPoint{{"/", "/dev/vda", "254:0"}, {`/a b\c`, "ammonite:/x y", "0:44"}}, parseMounts(info))
}

func TestARecordThatIsTornDoesNotStopTheRelease(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, recordFile), []byte(`{"map`), 0o600))
	require.NoError(t, Release(t.Context(), dir))
}
