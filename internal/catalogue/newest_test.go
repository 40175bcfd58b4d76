package catalogue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
)

func TestNewest(t *testing.T) {
	list := []catalogue.Backup{
		made("1", 1, "rbd-fs-shop-nspvc-data", tagged("data", "claim-uid=old")...),
		made("2", 3, "rbd-fs-shop-nspvc-data", tagged("data", "claim-uid=new")...),
		made("3", 2, "rbd-fs-shop-nspvc-data", tagged("data")...),
		made("4", 9, "rbd-fs-shop-nspvc-data", tagged("data", "partial")...),
		made("5", 1, "rbd-fs-shop-nspvc-torn", tagged("torn", "partial")...),
		// The predecessor's.
		made("6", 1, "rbd-block-alpha-nspvc-disk"),
		// Two claims may be meant.
		made("7", 1, "rbd-fs-a-nspvc-b-nspvc-c"),
		// Somebody's own.
		made("8", 1, "laptop"),
	}
	names := func(e catalogue.Estate) (newest map[string]string, lacking []string) {
		newest = map[string]string{}
		for _, b := range e.Newest {
			newest[b.Claim.String()] = b.ID[:1]
		}
		for _, c := range e.Lacking {
			lacking = append(lacking, c.String())
		}
		return newest, lacking
	}
	newest, lacking := names(catalogue.Newest(list, time.Time{}))
	require.Equal(t, map[string]string{"shop/data": "2", "alpha/disk": "6"}, newest)
	require.Equal(t, []string{"a/b-nspvc-c", "a-nspvc-b/c", "shop/torn"}, lacking)

	newest, _ = names(catalogue.Newest(list, noon.AddDate(0, 0, 2)))
	require.Equal(t, map[string]string{"shop/data": "3", "alpha/disk": "6"}, newest)

	e := catalogue.Newest(list, time.Time{})
	require.Equal(t, "alpha/disk", e.Newest[0].Claim.String(), "in their order")
	require.Equal(t, backup.KindRBDBlock, e.Newest[0].Kind)
}

// What is chosen for all is what is chosen for each.
func TestNewestAgreesWithChoose(t *testing.T) {
	list := []catalogue.Backup{
		made("1", 1, "rbd-fs-shop-nspvc-data", tagged("data")...),
		made("2", 3, "rbd-fs-shop-nspvc-data", tagged("data", "partial")...),
		made("3", 2, "rbd-fs-shop-nspvc-more", tagged("more")...),
		made("4", 4, "rbd-fs-shop-nspvc-more"),
		made("5", 5, "rbd-block-shop-nspvc-disk"),
	}
	for days := range 7 {
		until := noon.AddDate(0, 0, days)
		all := map[backup.Claim]string{}
		for _, b := range catalogue.Newest(list, until).Newest {
			all[b.Claim] = b.ID
		}
		for _, name := range []string{"data", "more", "disk"} {
			claim := backup.Claim{Namespace: "shop", Name: name}
			one, err := catalogue.Choose(list, catalogue.Point{Claim: claim, At: until})
			require.Equal(t, one.ID, all[claim], "%s, day %d: %v", claim, days, err)
		}
	}
}
