package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const rootHelp = `Ammonite backs up the Ceph volumes behind Kubernetes claims into a restic
repository. Each backup is a durable Temporal workflow: it goes on when this
command, a worker or a node dies.

Where Temporal is, is read like by Temporal's own command line: from
TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_* or a
profile (TEMPORAL_PROFILE, TEMPORAL_CONFIG_FILE). Where the repository is, is
read like by restic: from RESTIC_REPOSITORY, RESTIC_PASSWORD_FILE and so on.
Where Kubernetes is, is read like by kubectl: from KUBECONFIG or ~/.kube/config.

` + exitCodesHelp

func newRootCommand(s surroundings) *cobra.Command {
	root := &cobra.Command{
		Use:   "ammonite",
		Short: "Back up Ceph volumes behind Kubernetes claims",
		Long:  rootHelp,
		Example: `  ammonite backup shop/data
  ammonite status                # how all volumes stand
  ammonite explain shop/data     # whether and when one is backed up, and why
  ammonite schedules apply       # back up all of them by schedule
  ammonite snapshots shop/data`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetOut(s.stdout)
	root.SetErr(s.stderr)
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(newBackupCommand(s), newStatusCommand(s), newExplainCommand(s), newPlanCommand(s), newRunsCommand(s), newSchedulesCommand(s), newSnapshotsCommand(s), newListCommand(s), newFindCommand(s), newDiffCommand(s), newCatCommand(s), newMountCommand(s), newRestoreCommand(s),
		newRepositoriesCommand(s), newRetainCommand(s), newHoldCommand(s), newReleaseCommand(s), newPruneCommand(s), newVerifyCommand(s), newReconcileCommand(s), newVersionCommand(s))
	return root
}

// scope is a NAMESPACE[/CLAIM] argument; the zero value means everything.
type scope struct {
	namespace, claim string
}

// parseScope reads the optional argument of listing commands.
func parseScope(args []string) (scope, error) {
	if len(args) == 0 {
		return scope{}, nil
	}
	if claim, err := backup.ParseClaim(args[0]); err == nil {
		return scope{namespace: claim.Namespace, claim: claim.Name}, nil
	}
	// Any claim name will do to check the namespace alone.
	if (backup.Claim{Namespace: args[0], Name: "any"}).Validate() == nil {
		return scope{namespace: args[0]}, nil
	}
	return scope{}, fmt.Errorf("%q is neither a namespace nor a claim. Write it as NAMESPACE or NAMESPACE/CLAIM, for example shop/data", args[0])
}

// scopeArgs reads the optional argument of a listing command into a scope.
func scopeArgs(into *scope) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		err := cobra.MaximumNArgs(1)(nil, args)
		if err == nil {
			*into, err = parseScope(args)
		}
		return err
	}
}

func (s scope) matches(c backup.Claim) bool {
	return (s.namespace == "" || s.namespace == c.Namespace) && (s.claim == "" || s.claim == c.Name)
}
