package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
)

// page is docs/restore-without-ammonite.md, whose commands are run as they stand but for
// names.
type page struct{ text string }

func readPage(t *testing.T) page {
	t.Helper()
	text, err := os.ReadFile("../docs/restore-without-ammonite.md")
	require.NoError(t, err)
	return page{string(text)}
}

var block = regexp.MustCompile("(?s)```(sh|yaml)\n(.*?)```")

// blocks are those of a language below a heading.
func (p page) blocks(t *testing.T, heading, language string) (found []string) {
	t.Helper()
	_, below, ok := strings.Cut(p.text, "\n## "+heading+"\n")
	require.True(t, ok, "the page has no heading %q", heading)
	section, _, _ := strings.Cut(below, "\n## ")
	for _, b := range block.FindAllStringSubmatch(section, -1) {
		if b[1] == language {
			found = append(found, b[2])
		}
	}
	require.NotEmpty(t, found)
	return found
}

// follow runs the commands below a heading.
func (p page) follow(t *testing.T, s *system.System, heading string, names *strings.Replacer) (printed string) {
	t.Helper()
	for _, commands := range p.blocks(t, heading, "sh") {
		cmd := exec.CommandContext(t.Context(), "bash", "-euc", names.Replace(commands))
		cmd.Env = append(s.Env(), "HOME="+s.Dir)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", names.Replace(commands), out)
		printed += string(out)
	}
	return printed
}

// TestRestoreWithoutAmmonite follows the page from a backup to a filesystem, and from
// another to a claim.
func TestRestoreWithoutAmmonite(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, nodes := start(t, s, 1)
	files, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "data", FSType: "xfs", Size: 512 << 20,
		Populate: func(root string) error { return tree.PopulateSmall(root, treeSeed) },
	})
	require.NoError(t, err)
	disk, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: 64 << 20, Populate: func(device string) error { return scatter(device, 64<<20) },
	})
	require.NoError(t, err)
	ofFiles, truth := backUpObserved(t, s, nodes[0], files)
	ofDisk, device := backUpObserved(t, s, nodes[0], disk)
	stop(t, nodes[0])
	stop(t, control)
	p := readPage(t)

	target, remove, err := s.NewFilesystem(context.WithoutCancel(t.Context()), "xfs")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, remove()) })
	names := strings.NewReplacer("SNAPSHOT", ofFiles.Stored.ID, "/restore", target, "rbd-fs-shop-nspvc", "rbd-fs-"+s.Namespace+"-nspvc")
	require.Contains(t, p.follow(t, s, "Files", names), ofFiles.Stored.ID[:8])
	differences, err := tree.Compare(truth.root, target)
	require.NoError(t, err)
	for _, d := range differences {
		require.Equal(t, ".", d.Path, "all but the directory itself is as it was: %s", d)
	}

	dir := t.TempDir()
	names = strings.NewReplacer("SNAPSHOT", ofDisk.Stored.ID, "/restore", dir, "rbd-block-shop-nspvc", "rbd-block-"+s.Namespace+"-nspvc",
		"POOL", lab.VolumePool, "IMAGE", s.Namespace+"-again", "CLUSTERID", s.Lab.CephFSID, "shop", s.Namespace)
	require.Contains(t, p.follow(t, s, "A disk", names), ofDisk.Stored.ID[:8])
	manifest := names.Replace(p.blocks(t, "Back as a claim", "yaml")[0])
	require.NoError(t, os.WriteFile(filepath.Join(dir, "claim.yaml"), []byte(manifest), 0o600))
	p.follow(t, s, "Back as a claim", names)
	again, err := s.Adopt(t.Context(), s.Namespace, "disk-again")
	require.NoError(t, err)
	file := filepath.Join(dir, "exported")
	_, err = again.Ceph.Run(t.Context(), "rbd", "export", "--no-progress", again.Spec(), file)
	require.NoError(t, err)
	_, err = s.Run(t.Context(), "qemu-img", "compare", "-f", "raw", "-F", "raw", device.device, file)
	require.NoError(t, err)
	// It is what Ammonite would have made: a claim that can be backed up.
	require.NoError(t, control.Start(t.Context()))
	require.NoError(t, nodes[0].Start(t.Context()))
	require.Equal(t, backup.KindRBDBlock, backUp(t, s, s.Namespace, "disk-again").Volume.Kind)
}
