package activities

import (
	"context"
	"slices"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// namespaces is what the control side needs from Kubernetes to make many claims.
type namespaces interface {
	// ClaimsOf names the claims of a namespace with such labels, and says whether there
	// is the namespace.
	ClaimsOf(ctx context.Context, namespace, selector string) (names []string, exists bool, err error)
	MakeNamespace(ctx context.Context, name string) error
}

// CheckRestoresInput says which backups are to become which claims.
type CheckRestoresInput struct {
	// Backups are of claims that are named.
	Backups []FoundBackup `json:"backups"`
	// Lacking are claims without a good backup.
	Lacking []backup.Claim `json:"lacking,omitempty"`
	// ToNamespace is where the claims are made; empty for that of each backup's claim.
	ToNamespace string `json:"toNamespace,omitempty"`
	// Selector leaves only those whose claim exists and has such labels, as
	// `kubectl get -l` takes it.
	Selector string `json:"selector,omitempty"`
	// MakeNamespaces says that namespaces which are missing are no obstacle.
	MakeNamespaces bool `json:"makeNamespaces,omitempty"`
}

// PlannedRestore is a backup and the claim that it becomes.
type PlannedRestore struct {
	Backup FoundBackup  `json:"backup"`
	To     backup.Claim `json:"to"`
	// Present says that there is such a claim already, and Against what else keeps it
	// from being made.
	Present bool   `json:"present,omitempty"`
	Against string `json:"against,omitempty"`
}

// CheckedRestores are those that were asked for.
type CheckedRestores struct {
	Restores []PlannedRestore `json:"restores,omitempty"`
	// Missing are the namespaces that are still to be made.
	Missing []string `json:"missing,omitempty"`
	// Lacking are those without a good backup that were asked for.
	Lacking []backup.Claim `json:"lacking,omitempty"`
}

// CheckRestores looks which claims are there already. It only reads.
func (c *Control) CheckRestores(ctx context.Context, in CheckRestoresInput) (CheckedRestores, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	var checked CheckedRestores
	lists := claimLists{}
	for _, b := range in.Backups {
		p := PlannedRestore{Backup: b, To: backup.Claim{Namespace: b.Claim.Namespace, Name: b.Claim.Name}}
		if in.ToNamespace != "" {
			p.To.Namespace = in.ToNamespace
		}
		chosen, err := lists.chosen(ctx, c.Namespaces, b.Claim, in.Selector)
		if err != nil {
			return checked, toFailure(err)
		}
		if !chosen {
			continue
		}
		there, err := lists.of(ctx, c.Namespaces, p.To.Namespace, "")
		switch {
		case err != nil:
			return checked, toFailure(err)
		case slices.Contains(there.names, p.To.Name):
			p.Present = true
		case !there.exists && !in.MakeNamespaces:
			p.Against = "there is no namespace " + p.To.Namespace
		case !there.exists && !slices.Contains(checked.Missing, p.To.Namespace):
			checked.Missing = append(checked.Missing, p.To.Namespace)
		}
		checked.Restores = append(checked.Restores, p)
	}
	for _, claim := range in.Lacking {
		chosen, err := lists.chosen(ctx, c.Namespaces, claim, in.Selector)
		if err != nil {
			return checked, toFailure(err)
		}
		if chosen {
			checked.Lacking = append(checked.Lacking, claim)
		}
	}
	return checked, nil
}

// claimLists are the claims of namespaces, by the namespace and the labels that they have.
type claimLists map[[2]string]claimList

type claimList struct {
	names  []string
	exists bool
}

func (l claimLists) of(ctx context.Context, from namespaces, namespace, selector string) (list claimList, err error) {
	key := [2]string{namespace, selector}
	list, known := l[key]
	if !known {
		list.names, list.exists, err = from.ClaimsOf(ctx, namespace, selector)
		l[key] = list
	}
	return list, err
}

// chosen reports whether the selector leaves a claim.
func (l claimLists) chosen(ctx context.Context, from namespaces, claim backup.Claim, selector string) (bool, error) {
	if selector == "" {
		return true, nil
	}
	list, err := l.of(ctx, from, claim.Namespace, selector)
	return slices.Contains(list.names, claim.Name), err
}

// MakeNamespaces makes namespaces. Those that are there are left as they are.
func (c *Control) MakeNamespaces(ctx context.Context, names []string) error {
	ctx, done := uninterrupted(ctx)
	defer done()
	for _, name := range names {
		if err := c.Namespaces.MakeNamespace(ctx, name); err != nil {
			return toFailure(err)
		}
	}
	return nil
}
