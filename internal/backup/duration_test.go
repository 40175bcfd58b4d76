package backup_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30m": 30 * time.Minute, "6h": 6 * time.Hour, "1h30m": 90 * time.Minute, "90s": 90 * time.Second, "1.5h": 90 * time.Minute,
		"0": 0, "0s": 0, "0d": 0, "1d": 24 * time.Hour, "7d": 7 * 24 * time.Hour, "366d": 366 * 24 * time.Hour, "65535d": 65535 * 24 * time.Hour,
	} {
		got, err := backup.ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got.Std(), text)
	}
	for _, text := range []string{
		"", " ", "d", "6", "h", "-1h", "-1d", "+5d", "1dd", "1d12h", "12h1d", "1.5d", "1_0d", "0x1d", " 1d", "1d ", "1 d", "1D", "65536d", "99999999999999999999d",
		"9999999h", "daily", "1w", "٣d",
	} {
		_, err := backup.ParseDuration(text)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%q", text)
	}
}

func TestDurationsAreReadAsTheyAreWritten(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", time.Minute: "1m", 10 * time.Minute: "10m", time.Hour: "1h", 10 * time.Hour: "10h", 24 * time.Hour: "24h",
		90 * time.Minute: "1h30m", time.Hour + 10*time.Minute: "1h10m", time.Hour + 10*time.Second: "1h0m10s", 100 * time.Minute: "1h40m",
		7 * 24 * time.Hour: "168h", 1500 * time.Millisecond: "1.5s", math.MaxInt64: "2562047h47m16.854775807s",
	} {
		require.Equal(t, want, backup.Duration(d).String())
		read, err := backup.ParseDuration(want)
		require.NoError(t, err)
		require.Equal(t, d, read.Std())
	}
	require.Equal(t, "-1h", backup.Duration(-time.Hour).String())
}

func TestDurationsInJSONAreText(t *testing.T) {
	type settings struct {
		Every backup.Duration `json:"every,omitempty"`
		Pause backup.Duration `json:"pause,omitempty"`
	}
	in := settings{Every: backup.Duration(6 * time.Hour)}
	text, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"every":"6h"}`, string(text))
	var out settings
	require.NoError(t, json.Unmarshal(text, &out))
	require.Equal(t, in, out)
	require.NoError(t, json.Unmarshal([]byte(`{"pause":"2d"}`), &out))
	require.Equal(t, 48*time.Hour, out.Pause.Std())
	for _, wrong := range []string{`{"every":"often"}`, `{"every":"-1h"}`, `{"every":3600}`} {
		require.Error(t, json.Unmarshal([]byte(wrong), &out), wrong)
	}
	require.Equal(t, 6*time.Hour, out.Every.Std(), "what cannot be read leaves the value alone")
}
