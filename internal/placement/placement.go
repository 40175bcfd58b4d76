// Package placement decides into which repository the backups of a claim go. It is pure.
package placement

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Rules say whose backups go where. The zero value sends all to the default repository.
type Rules struct {
	// Rules are asked in order, and the first that fits decides.
	Rules []Rule `json:"rules,omitempty"`
	// Allow lists by repository the namespaces whose claims may choose it by annotation.
	Allow map[string]Namespaces `json:"allow,omitempty"`
}

// Rule sends the claims of some namespaces to a repository.
type Rule struct {
	Repository string     `json:"repository"`
	Namespaces Namespaces `json:"namespaces"`
	// Labels are what a claim has to have besides. Tenants write them: they narrow a
	// rule, and never open a repository to a namespace.
	Labels map[string]string `json:"labels,omitempty"`
}

// Namespaces are patterns of names, as path.Match takes them: "*" is all.
type Namespaces []string

func (n Namespaces) match(namespace string) bool {
	return slices.ContainsFunc(n, func(pattern string) bool {
		fits, err := path.Match(pattern, namespace)
		return err == nil && fits
	})
}

// Subject is what a claim and its namespace say. Annotations are by their names without
// the prefix.
type Subject struct {
	Namespace            string
	Labels               map[string]string
	OnClaim, OnNamespace map[string]string
}

// Choice is where a claim's backups go.
type Choice struct {
	// Repository is empty for the default one.
	Repository string
	// Problems say which annotations were passed over, and why.
	Problems []string
}

// Choose returns what the annotation of the claim says, else of its namespace, if that
// is allowed, else what the rules say.
func (r Rules) Choose(s Subject) Choice {
	var c Choice
	if at := slices.IndexFunc(r.Rules, func(rule Rule) bool { return rule.fits(s) }); at >= 0 {
		c.Repository = backup.RepositoryKey(r.Rules[at].Repository)
	}
	for _, o := range []struct {
		name        string
		annotations map[string]string
	}{{"claim", s.OnClaim}, {"namespace", s.OnNamespace}} {
		wanted, present := o.annotations[backup.AnnotationRepository]
		switch {
		case !present:
		case backup.RepositoryKey(wanted) == c.Repository:
			return c
		case r.allowed(wanted, s.Namespace):
			c.Repository = backup.RepositoryKey(wanted)
			return c
		default:
			c.Problems = append(c.Problems, fmt.Sprintf("the %s's annotation %s is passed over: namespace %s may not choose repository %q",
				o.name, backup.AnnotationRepository, s.Namespace, shortened(wanted)))
		}
	}
	return c
}

// allowed reports whether the namespace may choose the repository: one that it was
// allowed, or that a rule gives to claims of it.
func (r Rules) allowed(repository, namespace string) bool {
	return r.Allow[repository].match(namespace) || slices.ContainsFunc(r.Rules, func(rule Rule) bool {
		return rule.Repository == repository && rule.Namespaces.match(namespace)
	})
}

func (r Rule) fits(s Subject) bool {
	if !r.Namespaces.match(s.Namespace) {
		return false
	}
	for key, value := range r.Labels {
		if has, ok := s.Labels[key]; !ok || has != value {
			return false
		}
	}
	return true
}

// longestValue bounds what is repeated of an annotation.
const longestValue = 64

func shortened(s string) string {
	if len(s) > longestValue {
		s = strings.ToValidUTF8(s[:longestValue], "") + "…"
	}
	return s
}

// Any reports whether there are rules at all.
func (r Rules) Any() bool { return len(r.Rules)+len(r.Allow) > 0 }

// Repositories lists those that the rules name, sorted.
func (r Rules) Repositories() []string {
	names := slices.Collect(maps.Keys(r.Allow))
	for _, rule := range r.Rules {
		names = append(names, rule.Repository)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Parse reads the rules from YAML. It returns one InvalidInput failure that names
// everything which is wrong.
func Parse(text []byte) (Rules, error) {
	var r Rules
	if err := yaml.UnmarshalStrict(text, &r); err != nil {
		return r, backup.Fail(backup.InvalidInput, "the rules of repositories are not understood", remedy, err)
	}
	return r, r.validate()
}

const remedy = "docs/repositories.md describes them."

func (r Rules) validate() error {
	var wrong []string
	check := func(where, repository string, namespaces Namespaces) {
		if repository == "" {
			wrong = append(wrong, where+": no repository is named")
		} else if err := backup.ValidateRepository(repository); err != nil {
			wrong = append(wrong, where+": "+backup.MessageOf(err).Text)
		}
		if len(namespaces) == 0 {
			wrong = append(wrong, where+`: no namespaces are given; "*" is all`)
		}
		for _, pattern := range namespaces {
			if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
				wrong = append(wrong, fmt.Sprintf("%s: %q is no pattern for names of namespaces", where, pattern))
			}
		}
	}
	for i, rule := range r.Rules {
		check(fmt.Sprintf("rule %d", i+1), rule.Repository, rule.Namespaces)
	}
	for _, repository := range slices.Sorted(maps.Keys(r.Allow)) {
		check("allow "+repository, repository, r.Allow[repository])
	}
	if len(wrong) == 0 {
		return nil
	}
	return backup.Fail(backup.InvalidInput, "the rules of repositories are wrong:\n  "+strings.Join(wrong, "\n  "), "\n"+remedy, nil)
}
