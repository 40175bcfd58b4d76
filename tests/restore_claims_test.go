package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
)

// TestRestoreManyClaims restores a namespace to another one, in two commands and though
// its control worker is killed. Then nothing but the repository is left: namespace,
// claims, images and all that Temporal knew are gone; and another installation, which
// never knew any of it, brings them back by what the repository tells.
func TestRestoreManyClaims(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, _ := start(t, s, 2)
	class, again := s.Namespace, s.Namespace+"-again"
	require.NoError(t, s.StorageClass(t.Context(), class, "ext4", nil))
	names := []string{"disk", "files", "more"}
	for i, name := range names {
		spec := lab.VolumeSpec{Namespace: s.Namespace, Claim: name, FSType: "ext4", Size: 64 << 20, Populate: func(root string) error {
			return os.WriteFile(filepath.Join(root, "which"), []byte(strings.Repeat(name, 1000*i)), 0o640)
		}}
		if name == "disk" {
			spec = lab.VolumeSpec{Namespace: s.Namespace, Claim: name, Block: true, Size: 96 << 20, Populate: func(device string) error {
				return scatter(device, 96<<20)
			}}
		}
		_, err := s.CreateVolume(t.Context(), spec)
		require.NoError(t, err)
		if name == "more" {
			_, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "label", "pvc", name, "tier=web")
			require.NoError(t, err)
		}
		backUp(t, s, s.Namespace, name)
	}

	many := []string{"restore", "--namespace", s.Namespace, "--to-namespace", again, "--storage-class", class}
	said := ammonite(t, s, exitUsage, append(many, "--yes")...)
	require.Contains(t, said.stdout, "there is no namespace "+again)
	require.Contains(t, said.stderr, "--make-namespaces")
	many = append(many, "--make-namespaces")
	require.Contains(t, ammonite(t, s, exitUsage, many...).stderr, "nobody answered whether the plan is right")
	many = append(many, "--yes")
	require.Contains(t, ammonite(t, s, exitSuccess, append(many, "-l", "tier=web")...).stdout, "Restored 1 claim,")
	rest := invoke(t, s, many...)
	await(t, patience, "no restore goes on", func() bool {
		run := s.Client.GetWorkflow(t.Context(), backup.RestoreID(backup.Claim{Namespace: again, Name: "files"}), "")
		_, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), "")
		return err == nil
	})
	control.Kill()
	require.NoError(t, control.Start(t.Context()))
	require.Equal(t, exitSuccess, rest.wait(t), rest.output())
	require.Regexp(t, `(?m)more +\S+/more .*is there already, and stays as it is$`, rest.stdout)
	require.Contains(t, rest.stdout, "Restored 2 claims,")
	require.Contains(t, ammonite(t, s, exitSuccess, many...).stderr, "There is nothing to restore")
	requireSameClaims(t, s, names, s.Namespace, again)

	for _, w := range s.Workers() {
		stop(t, w)
	}
	for _, name := range names {
		require.NoError(t, s.VolumeOf(backup.Claim{Namespace: s.Namespace, Name: name}).Delete(t.Context()))
	}
	_, err := s.Run(t.Context(), "kubectl", "delete", "namespace", s.Namespace)
	require.NoError(t, err)
	elsewhere := newSystemIn(t, s.Lab, steady, "elsewhere")
	elsewhere.Repository = s.Repository
	start(t, elsewhere, 2)
	said = ammonite(t, elsewhere, exitSuccess, "restore", "--all", "--make-namespaces", "--storage-class", class, "--yes")
	require.Contains(t, said.stdout, "Restored 3 claims,")
	requireSameClaims(t, s, names, again, s.Namespace)
	labelled, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "get", "pvc", "-l", "tier=web", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.capacity.storage}")
	require.NoError(t, err)
	require.Equal(t, "more 64Mi", labelled, "it is as it was")
}

// requireSameClaims requires that the claims of two namespaces hold the same.
func requireSameClaims(t *testing.T, s *system.System, names []string, a, b string) {
	t.Helper()
	for _, name := range names {
		var held []*lab.Volume
		for _, namespace := range []string{a, b} {
			v := s.VolumeOf(backup.Claim{Namespace: namespace, Name: name})
			if v == nil || namespace == b {
				var err error
				v, err = s.Adopt(t.Context(), namespace, name)
				require.NoError(t, err)
			}
			held = append(held, v)
		}
		if name == "disk" {
			requireEqualDisks(t, s, held[0], held[1])
		} else {
			requireEqualTrees(t, held[0], held[1])
		}
	}
}

func requireEqualDisks(t *testing.T, s *system.System, a, b *lab.Volume) {
	t.Helper()
	var files []string
	for i, v := range []*lab.Volume{a, b} {
		file := filepath.Join(t.TempDir(), fmt.Sprint(i))
		_, err := v.Ceph.Run(t.Context(), "rbd", "export", "--no-progress", v.Spec(), file)
		require.NoError(t, err)
		defer os.Remove(file)
		files = append(files, file)
	}
	_, err := s.Run(t.Context(), "qemu-img", "compare", "-f", "raw", "-F", "raw", files[0], files[1])
	require.NoError(t, err)
}

func requireEqualTrees(t *testing.T, a, b *lab.Volume) {
	t.Helper()
	var roots []string
	for _, v := range []*lab.Volume{a, b} {
		root, unmount, err := v.Mount(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, unmount()) }()
		roots = append(roots, root)
	}
	differences, err := tree.Compare(roots[0], roots[1], tree.IgnoreTop("lost+found"))
	require.NoError(t, err)
	require.Empty(t, differences)
}
