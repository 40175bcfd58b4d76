package catalogue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
)

func TestParse(t *testing.T) {
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return parsed
	}
	data := backup.Claim{Namespace: "shop", Name: "data"}
	for text, want := range map[string]catalogue.Point{
		"shop/data":                           {Claim: data},
		"shop/data@2026-03-01":                {Claim: data, At: at("2026-03-01T23:59:59.999999999Z")},
		"shop/data@2026-03-01T12:00":          {Claim: data, At: at("2026-03-01T12:00:59.999999999Z")},
		"shop/data@2026-03-01T12:00:07":       {Claim: data, At: at("2026-03-01T12:00:07.999999999Z")},
		"shop/data@2026-03-01T12:00:07+02:00": {Claim: data, At: at("2026-03-01T10:00:07.999999999Z")},
		"0123abcd":                            {ID: "0123abcd"},
		strings.Repeat("f", 64):               {ID: strings.Repeat("f", 64)},
		"deadbeef/data":                       {Claim: backup.Claim{Namespace: "deadbeef", Name: "data"}},
	} {
		got, err := catalogue.Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "shop", "shop/", "shop/data@", "shop/data@tomorrow", "0123abc", "0123ABCD", "shop/data@2026-02-30"} {
		_, err := catalogue.Parse(text)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), text)
	}
}

// What a point is called can be read again.
func TestAPointIsCalledWhatItIs(t *testing.T) {
	for _, text := range []string{"shop/data", "0123abcd", "shop/data@2026-03-01T12:00:07Z"} {
		point, err := catalogue.Parse(text)
		require.NoError(t, err)
		require.Equal(t, text, point.String())
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func made(id string, days int, host string, tags ...string) catalogue.Backup {
	return catalogue.Backup{ID: id + strings.Repeat("0", 63), Time: noon.AddDate(0, 0, days), Host: host, Tags: tags}
}

func tagged(claim string, more ...string) []string {
	return append([]string{"namespace=shop", "claim=" + claim, "kind=rbd-fs"}, more...)
}

func TestChoose(t *testing.T) {
	const host = "rbd-fs-shop-nspvc-data"
	list := []catalogue.Backup{
		made("1", 1, host), // the predecessor's
		made("2", 2, host, tagged("data")...),
		made("4", 4, host, tagged("data", backup.TagPartial)...),
		made("3", 3, "rbd-block-shop-nspvc-data", tagged("data")...), // another kind since
		made("5", 5, "rbd-fs-shop-nspvc-other", tagged("other", backup.TagPartial)...),
		made("6", 6, "cephfs-a-nspvc-b-nspvc-c"), // of a/b-nspvc-c or of a-nspvc-b/c
		made("7", 7, "laptop"),
		made("7a", 7, "laptop"),
	}
	for text, want := range map[string]string{
		"shop/data":                     "3",
		"shop/data@2026-03-03":          "2",
		"shop/data@2026-03-03T11:59":    "1",
		"shop/data@2026-03-02T12:00:00": "1",
		"40000000":                      "4",
		"60000000":                      "6",
	} {
		point, err := catalogue.Parse(text)
		require.NoError(t, err)
		got, err := catalogue.Choose(list, point)
		require.NoError(t, err, text)
		require.Equal(t, want, got.ID[:1], text)
	}
	for text, want := range map[string]struct {
		class backup.Class
		says  string
	}{
		"shop/data@2026-03-01": {backup.BackupMissing, "there is no backup of shop/data@2026-03-01T23:59:59Z. `ammonite snapshots`"},
		"shop/other":           {backup.BackupMissing, "there is no good backup of shop/other; it has only partial ones, 1, which miss files. Give the ID of one"},
		"a/b-nspvc-c":          {backup.BackupMissing, "1 that have no tags may be another claim's"},
		"ffffffff":             {backup.BackupMissing, "there is no backup ffffffff"},
	} {
		point, err := catalogue.Parse(text)
		require.NoError(t, err)
		_, err = catalogue.Choose(list, point)
		require.Equal(t, want.class, backup.ClassOf(err), text)
		require.ErrorContains(t, err, want.says)
	}
	_, err := catalogue.Choose(append(list, list[0]), catalogue.Point{ID: "10000000"})
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "2 backups begin with 10000000. Give more of the ID.")
}
