package retention

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestParsePolicy(t *testing.T) {
	for text, want := range map[string]Policy{
		"7d,4w,12m":                    {Daily: 7, Weekly: 4, Monthly: 12},
		"24h 7d 4w 12m 5y":             {Hourly: 24, Daily: 7, Weekly: 4, Monthly: 12, Yearly: 5},
		"last=3":                       {Last: 3},
		"keep-last=3, keep-within=30d": {Last: 3, Within: Span{Days: 30}},
		"Keep-Hourly=1,daily=2,weekly=3,monthly=4": {Hourly: 1, Daily: 2, Weekly: 3, Monthly: 4},
		"yearly=10000,7d":                          {Yearly: 10000, Daily: 7},
		"within=1y6m14d2h":                         {Within: Span{1, 6, 14, 2}},
		"all":                                      {All: true},
		"\u0037d":                                  {Daily: 7},
		" , 7d ,":                                  {Daily: 7},
	} {
		got, err := ParsePolicy(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := ParsePolicy(got.String())
		require.NoError(t, err, text)
		require.Equal(t, got, again, text)
	}
}

func TestPolicyIsRefused(t *testing.T) {
	for text, why := range map[string]string{
		"":                    "it would keep nothing",
		" ,":                  "it would keep nothing",
		"0d":                  `"0d" keeps nothing: leave it out`,
		"7d,daily=0":          `"daily=0" keeps nothing: leave it out`,
		"7d,daily=7":          `"daily=7" is said twice`,
		"within=1d,within=2d": `"within=2d" is said twice`,
		"within=":             `"within=" is not a time`,
		"within=0d":           `"within=0d" is not a time`,
		"within=7":            `"within=7" is not a time`,
		"within=1d1y":         `"within=1d1y" is not a time`,
		"-7d":                 `"-7d" has no number`,
		"7":                   `"7" is no rule`,
		"d":                   `"d" has no number`,
		"sevend":              `"sevend" has no number`,
		"99999999999999999d":  "has no number",
		"10001d":              `"10001d" keeps more than 10000: write all`,
		"all,7d":              `"all" goes with no other rule`,
		"7x":                  `"7x" is no rule`,
		"keep-tag=x":          `"keep-tag=x" is no rule`,
		"forever":             `"forever" is no rule`,
	} {
		_, err := ParsePolicy(text)
		require.ErrorContains(t, err, why, text)
		require.ErrorContains(t, err, "Write it as 7d,4w,12m", text)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), text)
	}
}

func TestPolicyInJSON(t *testing.T) {
	var in struct{ A, B Policy }
	require.NoError(t, json.Unmarshal([]byte(`{"A":"7d","B":""}`), &in))
	require.Equal(t, Policy{Daily: 7}, in.A)
	require.Equal(t, Policy{}, in.B)
	out, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"A":"daily=7","B":""}`, string(out))
	require.Error(t, json.Unmarshal([]byte(`{"A":"7x"}`), &in))
}

func FuzzParsePolicy(f *testing.F) {
	for _, seed := range []string{"7d,4w", "last=3 within=1y", "all", "keep-", "0h", "within=9999y9999m9999d9999h", "\x00d", "١d"} {
		f.Add(seed)
	}
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(text)
		if err != nil {
			require.Zero(t, p)
			return
		}
		again, err := ParsePolicy(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
		// Whatever it says, it never keeps nothing.
		verdicts := Decide(Volume{Policy: p, Backups: []Backup{{ID: "a", Time: now.Add(-time.Hour)}}}, Options{Now: now})
		require.True(t, verdicts[0].Keep)
	})
}

func TestChoose(t *testing.T) {
	configured := Policy{Daily: 9}
	key := backup.AnnotationRetention
	for _, c := range []struct {
		claim, namespace map[string]string
		want             Policy
		from             string
		problems         []string
	}{
		{nil, nil, configured, "configuration", nil},
		{nil, map[string]string{key: "2w"}, Policy{Weekly: 2}, "namespace", nil},
		{map[string]string{key: "1m"}, map[string]string{key: "2w"}, Policy{Monthly: 1}, "claim", nil},
		{map[string]string{key: "nothing"}, map[string]string{key: "2w"}, Policy{Weekly: 2}, "namespace", []string{"claim"}},
		{map[string]string{key: ""}, map[string]string{key: "0d"}, configured, "configuration", []string{"claim", "namespace"}},
		{map[string]string{key: "1m"}, map[string]string{key: "0d"}, Policy{Monthly: 1}, "claim", []string{"namespace"}},
	} {
		s := Choose(c.claim, c.namespace, configured)
		require.Equal(t, c.want, s.Policy)
		require.Equal(t, c.from, s.From)
		var on []string
		for _, p := range s.Problems {
			on = append(on, p.On)
			require.Contains(t, p.Why, "is not a retention policy")
		}
		require.Equal(t, c.problems, on)
	}
}
