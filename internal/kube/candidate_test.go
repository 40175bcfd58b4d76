package kube

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
}

func TestJoin(t *testing.T) {
	c := &Client{prefix: prefix}
	pvc, pv := boundPair("shop", "data")
	ns := namespace("shop")
	pvc.Annotations = map[string]string{prefix + "backup": "no", prefix + "grace": "", "backup": "other", prefix + "unknown": "x"}
	pv.Annotations = map[string]string{prefix + "last-start": "2026-01-02T03:04:05Z", prefix + "failures": "3", "clusterID": "x"}
	ns.Annotations = map[string]string{prefix + "interval": "6h", "example.com/interval": "1h"}
	require.Equal(t, selection.Candidate{
		Claim:   backup.Claim{Namespace: "shop", Name: "data", UID: "uid-of-shop-data"},
		Created: time.Unix(1_700_000_000, 0).UTC(),
		PV:      "pvc-shop-data", Kind: backup.KindRBDFilesystem, ClusterID: "c", Pool: "rbd", SizeBytes: 1 << 30,
		OnClaim:     selection.Annotations{"backup": "no", "grace": ""},
		OnVolume:    selection.Annotations{"last-start": "2026-01-02T03:04:05Z", "failures": "3"},
		OnNamespace: selection.Annotations{"interval": "6h"},
	}, c.join(pvc, pv, ns))
}

func TestJoinKnowsItsOwnNamespace(t *testing.T) {
	c := &Client{prefix: prefix}
	pvc, pv := boundPair("ammonite", "temporal")
	require.False(t, c.join(pvc, pv, namespace("ammonite")).Own)
	require.True(t, c.WithOwn("ammonite").join(pvc, pv, namespace("ammonite")).Own)
	require.False(t, c.WithOwn("ammo").join(pvc, pv, namespace("ammonite")).Own)
	require.Empty(t, c.own, "others use the same client")
	pvc.Namespace = ""
	require.False(t, c.WithOwn("").join(pvc, pv, namespace("")).Own)
}

func TestJoinSeesWhatLeaves(t *testing.T) {
	c := &Client{prefix: prefix}
	now := metav1.Now()
	tests := map[string]func(*corev1.PersistentVolumeClaim, *corev1.Namespace){
		"the claim":     func(pvc *corev1.PersistentVolumeClaim, _ *corev1.Namespace) { pvc.DeletionTimestamp = &now },
		"the namespace": func(_ *corev1.PersistentVolumeClaim, ns *corev1.Namespace) { ns.DeletionTimestamp = &now },
		"the namespace by its phase": func(_ *corev1.PersistentVolumeClaim, ns *corev1.Namespace) {
			ns.Status.Phase = corev1.NamespaceTerminating
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			pvc, pv := boundPair("shop", "data")
			ns := namespace("shop")
			require.False(t, c.join(pvc, pv, ns).Leaving)
			change(pvc, ns)
			c.slimClaim(pvc)
			c.slimNamespace(ns)
			require.True(t, c.join(pvc, pv, ns).Leaving)
		})
	}
}

// A claim may name any volume. What is written on another one's must not decide.
func TestJoinBelievesOnlyTheClaimsOwnVolume(t *testing.T) {
	c := &Client{prefix: prefix}
	tests := map[string]func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume){
		"another claim's": func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.UID = "another" },
		"nobody's":        func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = nil },
		"released": func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
			pv.Status.Phase = corev1.VolumeReleased
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			pvc, pv := boundPair("shop", "data")
			pv.Annotations = map[string]string{prefix + "backup": "yes"}
			change(pvc, pv)
			found := c.join(pvc, pv, namespace("shop"))
			require.NotEmpty(t, found.Unfit)
			require.Empty(t, found.PV)
			require.Empty(t, found.OnVolume)
			require.Zero(t, found.SizeBytes)
		})
	}
}

func TestJoinOfPendingClaim(t *testing.T) {
	c := &Client{prefix: prefix}
	pvc, _ := boundPair("shop", "data")
	pvc.Spec.VolumeName, pvc.Status.Phase = "", corev1.ClaimPending
	found := c.join(pvc, nil, namespace("shop"))
	require.Contains(t, found.Unfit, "phase Pending")
	require.Empty(t, found.PV)
}

// Each shape of volume is the same candidate after it was slimmed, by whichever
// of its attributes it is recognised.
func TestSlimmingKeepsWhatDecides(t *testing.T) {
	c := &Client{prefix: prefix}
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			pvc, pv, ns := g.claim.DeepCopy(), g.volume.DeepCopy(), namespace(g.claim.Namespace)
			metav1.SetMetaDataAnnotation(&pv.ObjectMeta, prefix+"backup", "no")
			whole := c.join(pvc, pv, ns)
			resolved, refusal := resolve(pvc, pv)
			for range 2 { // what is listed for an informer is slimmed twice
				c.slimClaim(pvc)
				c.slimVolume(pv)
				c.slimNamespace(ns)
			}
			require.Equal(t, whole, c.join(pvc, pv, ns))
			slim, slimRefusal := resolve(pvc, pv)
			require.Equal(t, resolved, slim)
			require.Equal(t, refusal, slimRefusal)
			require.Equal(t, g.want.Volume == nil, refusal != nil)
		})
	}
}

func TestUnreadableVolumesAreUnfit(t *testing.T) {
	c := &Client{prefix: prefix}
	cases := goldens(t)
	of := func(name string) selection.Candidate {
		g := cases[name]
		return c.join(&g.claim, &g.volume, namespace(g.claim.Namespace))
	}
	require.Contains(t, of("cephfs-encrypted").Unfit, "encrypted by ceph-csi")
	require.Equal(t, backup.KindRBDBlock, of("rbd-encrypted-luks").Kind, "as it is backed up")
	require.Empty(t, of("rbd-encrypted-luks").Unfit)
	require.Equal(t, "myfs", of("cephfs-subvolume").Pool)
	require.Equal(t, backup.KindCephFS, of("cephfs-subvolume").Kind)
	require.Contains(t, of("other-driver").Unfit, ". "+otherMeans)
	require.Empty(t, of("other-driver").Kind)
}

func TestUnfitIsShort(t *testing.T) {
	require.Empty(t, unfit(nil))
	fail := func(what, remedy string) string {
		return unfit(backup.Fail(backup.VolumeUnsupported, what, remedy, nil))
	}
	require.Equal(t, "no. Help.", fail("no", "Help."))
	long := strings.Repeat("é", unfitWidth/2-5)
	require.Equal(t, long, fail(long, "Some help."), "no room for the remedy")
	require.LessOrEqual(t, len(fail(strings.Repeat("é", unfitWidth), "Help.")), unfitWidth)
	require.Equal(t, "plain", unfit(errors.New("plain")))
}

// A value that is cut comes back from Kubernetes as it was written, and does not
// pass for a whole one.
func TestCut(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 300), strings.Repeat("é", 150), "x" + strings.Repeat("日", 100), strings.Repeat("🦀", 80), strings.Repeat("1h", 200)} {
		short := cut(text, valueWidth)
		require.LessOrEqual(t, len(short), valueWidth)
		require.Greater(t, len(short), valueWidth-8)
		require.True(t, utf8.ValidString(short))
		require.True(t, strings.HasSuffix(short, "…"))
		require.True(t, strings.HasPrefix(text, strings.TrimSuffix(short, "…")))
		require.Equal(t, short, cut(short, valueWidth))
	}
	require.Equal(t, "whole", cut("whole", 5))
}

func TestHostileValuesAreCut(t *testing.T) {
	c := &Client{prefix: prefix}
	pvc, pv := boundPair("shop", "data")
	pvc.Annotations = map[string]string{prefix + "interval": strings.Repeat("9", 1<<20)}
	c.slimClaim(pvc)
	require.Len(t, pvc.Annotations[prefix+"interval"], valueWidth)
	require.Len(t, c.join(pvc, pv, nil).OnClaim["interval"], valueWidth)
}

func FuzzJoin(f *testing.F) {
	f.Add("yes", "6h", "2026-01-02T03:04:05Z", "uid")
	f.Fuzz(func(t *testing.T, wanted, interval, last, uid string) {
		c := &Client{prefix: prefix}
		pvc, pv := boundPair("shop", "data")
		pvc.Annotations = map[string]string{prefix + "backup": wanted, prefix + "interval": interval}
		pv.Annotations = map[string]string{prefix + "last-start": last, annotationHandle: last}
		pv.Spec.ClaimRef.UID = types.UID(uid)
		found := c.join(pvc, pv, nil)
		require.LessOrEqual(t, len(found.OnClaim["backup"])+len(found.OnClaim["interval"]), 2*valueWidth)
		require.LessOrEqual(t, len(found.Unfit), unfitWidth)
		require.Equal(t, uid == "uid-of-shop-data", found.PV != "")
	})
}
