package placement_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
)

const example = `
rules:
- repository: finance
  namespaces: [finance, finance-*]
- repository: archive
  namespaces: ["*"]
  labels: {tier: archive}
allow:
  offsite: [shop, web-*]
  default: [finance-test]
`

func TestWhereBackupsGo(t *testing.T) {
	rules, err := placement.Parse([]byte(example))
	require.NoError(t, err)
	require.True(t, rules.Any())
	require.Equal(t, []string{"archive", "default", "finance", "offsite"}, rules.Repositories())
	wants := func(repository string) map[string]string {
		return map[string]string{backup.AnnotationRepository: repository}
	}
	archive := map[string]string{"tier": "archive", "app": "x"}
	for name, test := range map[string]struct {
		subject    placement.Subject
		repository string
		problem    string
	}{
		"nothing said":                   {placement.Subject{Namespace: "shop"}, "", ""},
		"by namespace":                   {placement.Subject{Namespace: "finance-eu"}, "finance", ""},
		"the first rule":                 {placement.Subject{Namespace: "finance", Labels: archive}, "finance", ""},
		"by label":                       {placement.Subject{Namespace: "shop", Labels: archive}, "archive", ""},
		"another label":                  {placement.Subject{Namespace: "shop", Labels: map[string]string{"tier": "gold"}}, "", ""},
		"chosen":                         {placement.Subject{Namespace: "web-1", OnClaim: wants("offsite")}, "offsite", ""},
		"chosen for the namespace":       {placement.Subject{Namespace: "shop", OnNamespace: wants("offsite")}, "offsite", ""},
		"the claim before all":           {placement.Subject{Namespace: "shop", OnClaim: wants("archive"), OnNamespace: wants("offsite")}, "archive", ""},
		"another tenant's":               {placement.Subject{Namespace: "shop", OnClaim: wants("finance")}, "", `the claim's annotation repository is passed over: namespace shop may not choose repository "finance"`},
		"another tenant's, then allowed": {placement.Subject{Namespace: "shop", OnClaim: wants("finance"), OnNamespace: wants("offsite")}, "offsite", "may not choose"},
		"out of the rule":                {placement.Subject{Namespace: "finance", OnClaim: wants("default")}, "finance", "may not choose"},
		"out of the rule, allowed":       {placement.Subject{Namespace: "finance-test", OnClaim: wants("default")}, "", ""},
		"where it goes anyway":           {placement.Subject{Namespace: "blog", OnClaim: wants("default")}, "", ""},
		"what does not exist":            {placement.Subject{Namespace: "shop", OnClaim: wants("../finance")}, "", "may not choose"},
		"empty":                          {placement.Subject{Namespace: "finance", OnClaim: wants("")}, "finance", "may not choose"},
	} {
		t.Run(name, func(t *testing.T) {
			choice := rules.Choose(test.subject)
			require.Equal(t, test.repository, choice.Repository)
			if test.problem == "" {
				require.Empty(t, choice.Problems)
				return
			}
			require.Len(t, choice.Problems, 1)
			require.Contains(t, choice.Problems[0], test.problem)
		})
	}
	require.Equal(t, placement.Choice{}, placement.Rules{}.Choose(placement.Subject{Namespace: "any", Labels: archive}))
}

func TestWrongRulesAreAllNamed(t *testing.T) {
	_, err := placement.Parse([]byte("rules: [{repository: Bad, namespaces: ['[']}, {namespaces: ['']}]\nallow: {good: []}"))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for _, said := range []string{`rule 1: a repository cannot be called "Bad"`, `rule 1: "[" is no pattern`, "rule 2: no repository is named", `rule 2: "" is no pattern`, "allow good: no namespaces"} {
		require.ErrorContains(t, err, said)
	}
	for _, text := range []string{"rule: []", "rules: {}", "- x", "rules: [{repository: a, namespace: [b]}]"} {
		_, err := placement.Parse([]byte(text))
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), text)
	}
	rules, err := placement.Parse(nil)
	require.NoError(t, err)
	require.False(t, rules.Any())
}
