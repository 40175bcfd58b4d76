package kube

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestEvent(t *testing.T) {
	pvc, _ := boundPair("shop", "data")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := eventOn(pvc, backup.Event{Run: "r-1", Reason: backup.EventSucceeded, Text: "stored"}, now)
	require.Equal(t, "shop", e.Namespace)
	require.Equal(t, corev1.ObjectReference{
		APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data", UID: "uid-of-shop-data", ResourceVersion: "3",
	}, e.InvolvedObject)
	require.Equal(t, corev1.EventTypeNormal, e.Type)
	require.Equal(t, "BackupSucceeded", e.Reason)
	require.Equal(t, "stored", e.Message)
	require.Equal(t, "ammonite", e.Source.Component)
	require.Equal(t, "ammonite", e.ReportingController)
	require.Equal(t, now, e.LastTimestamp.UTC())
	for _, bad := range []backup.EventReason{backup.EventFailed, backup.EventPartial, backup.EventRefused} {
		require.Equal(t, corev1.EventTypeWarning, eventOn(pvc, backup.Event{Reason: bad}, now).Type)
	}
}

func TestEventNamesFollowFromWhatIsTold(t *testing.T) {
	pvc, _ := boundPair("shop", "data")
	e := backup.Event{Run: "r-1", Reason: backup.EventStarted, Text: "one"}
	name := eventName(pvc, e)
	e.Text = "another"
	require.Equal(t, name, eventName(pvc, e))

	names := map[string]bool{name: true}
	e.Run = "r-2"
	names[eventName(pvc, e)] = true
	e.Reason = backup.EventFailed
	names[eventName(pvc, e)] = true
	again := pvc.DeepCopy()
	again.UID = types.UID("another")
	names[eventName(again, e)] = true
	require.Len(t, names, 4)
}

func TestEventNamesAreValid(t *testing.T) {
	for _, claim := range []string{"data", strings.Repeat("x", 253), strings.Repeat("x", 235) + "." + strings.Repeat("y", 17), strings.Repeat("ab.", 84) + "a"} {
		pvc, _ := boundPair("shop", claim)
		name := eventName(pvc, backup.Event{Run: "r", Reason: backup.EventStarted})
		require.Empty(t, validation.IsDNS1123Subdomain(name), name)
		require.True(t, strings.HasPrefix(name, strings.TrimRight(claim[:min(len(claim), 200)], "-.")))
	}
}

func TestEventTextIsCutAndHarmless(t *testing.T) {
	pvc, _ := boundPair("shop", "data")
	message := func(text string) string { return eventOn(pvc, backup.Event{Text: text}, time.Now()).Message }
	for _, text := range []string{strings.Repeat("é", 1000), "x" + strings.Repeat("日本", 300)} {
		short := message(text)
		require.LessOrEqual(t, len(short), messageWidth)
		require.Greater(t, len(short), messageWidth-8)
		require.True(t, utf8.ValidString(short))
	}
	require.Equal(t, "a  b  [31m c", message("a\r\nb\x00\x1b[31m\tc"))
	require.Equal(t, "a\uFFFDb", message("a\xffb"))
	require.Equal(t, "größer", message("größer"))
}
