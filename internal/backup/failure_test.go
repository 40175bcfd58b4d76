package backup

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrorsKeepClassAndTextBetweenProcesses(t *testing.T) {
	for _, err := range []error{
		nil,
		errors.New("a passing fault"),
		Fail(VolumeGone, "it is gone", "Make it again.", errors.New("ENOENT")),
		Fail(NotReadyYet, "it is held", "", nil),
	} {
		sent, failed := json.Marshal(MessageOf(err))
		require.NoError(t, failed)
		var received Message
		require.NoError(t, json.Unmarshal(sent, &received))
		got := received.Err()
		require.Equal(t, ClassOf(err), ClassOf(got))
		if err == nil {
			require.NoError(t, got)
		} else {
			require.EqualError(t, got, err.Error())
		}
	}
}
