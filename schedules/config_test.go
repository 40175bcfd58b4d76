package schedules_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

func TestNothingAtAllIsAConfiguration(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "comment": "# nothing\n", "braces": "{}", "null": "null", "empty sweep": "sweep:\n", "empty policy": "sweep: {policy: }",
	} {
		c, err := schedules.Parse([]byte(text))
		require.NoError(t, err, name)
		require.Equal(t, schedules.Config{}, c, name)
	}
	c, err := schedules.Read(schedules.BuiltIn)
	require.NoError(t, err)
	require.Equal(t, schedules.Config{}, c)
}

// TestEveryWrongSettingIsNamed compares with golden files what is said about wrong
// configurations.
func TestEveryWrongSettingIsNamed(t *testing.T) {
	files, err := filepath.Glob("testdata/wrong/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = schedules.Parse(text)
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
			golden := file[:len(file)-len(".yaml")] + ".txt"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				require.NoError(t, os.WriteFile(golden, []byte(err.Error()+"\n"), 0o600))
			}
			want, readErr := os.ReadFile(golden)
			require.NoError(t, readErr)
			require.Equal(t, string(want), err.Error()+"\n")
		})
	}
}

func TestAFileIsNamedWhenItIsWrong(t *testing.T) {
	_, err := schedules.Read("/no/such/file")
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "/no/such/file")

	file := filepath.Join(t.TempDir(), "schedules.yaml")
	require.NoError(t, os.WriteFile(file, []byte("sweeps: {}"), 0o600))
	_, err = schedules.Read(file)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, file)
	require.ErrorContains(t, err, "sweeps")
}

func TestAWholeConfigurationIsRead(t *testing.T) {
	c, err := schedules.Read("testdata/whole.yaml")
	require.NoError(t, err)
	require.Equal(t, "Europe/Berlin", c.TimeZone)
	require.Equal(t, "30m", c.Sweep.Every.String())
	require.Equal(t, "12h", c.Sweep.Policy.Interval.String())
	require.InEpsilon(t, 3.0, c.Sweep.Policy.CatchUp, 1e-9)
	require.Equal(t, 8, c.Sweep.Limits.PerPool)
	require.Equal(t, 5, c.Sweep.Load.SlowOps)
	require.Equal(t, "shop", c.Sweep.Namespace)
	require.Equal(t, "daily=7,weekly=4,monthly=12", c.Retain.Policy.String())
	require.Equal(t, "720h", c.Retain.MissingFor.String())
}

// TestTheManualShowsTheDefaults reads the file that docs/schedules.md shows.
func TestTheManualShowsTheDefaults(t *testing.T) {
	manual, err := os.ReadFile("../docs/schedules.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(manual), "```yaml\n")
	require.True(t, found)
	text, _, _ := strings.Cut(rest, "```")
	c := parse(t, text)
	c.Sweep.Policy.Period = c.Sweep.Policy.WithDefaults().Period
	require.Equal(t, selection.Policy{}.WithDefaults(), c.Sweep.Policy)
	require.Equal(t, workflows.SweepLimits{}.WithDefaults(), c.Sweep.Limits)
	require.Equal(t, backup.LoadLimits{}.WithDefaults(), c.Sweep.Load)

	f := newFake()
	apply(t, f, schedules.Config{})
	for _, d := range apply(t, f, parse(t, text))[0].Differences {
		require.True(t, strings.HasPrefix(d.Property, "input."), "%v", d)
	}
}
