package selection

import (
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// tristate is what a backup annotation says.
type tristate int8

const (
	unsaid tristate = iota
	yes
	no
)

func (t tristate) String() string {
	switch t {
	case yes:
		return "yes"
	case no:
		return "no"
	}
	return ""
}

// readTristate reads a value as the predecessor does: nothing but the case of
// letters is forgiven.
func readTristate(value string) tristate {
	switch strings.ToLower(value) {
	case "1", "yes", "true":
		return yes
	case "0", "no", "false":
		return no
	}
	return unsaid
}

// wishes are what the three objects say, indexed by object.
type wishes [len(objects)]tristate

func (d *Decision) readWishes() (w wishes) {
	for _, o := range objects {
		value, present := o.annotations(&d.Candidate)[backup.AnnotationBackup]
		if !present {
			continue
		}
		if w[o] = readTristate(value); w[o] == unsaid {
			d.problem(o, backup.AnnotationBackup, value, "it is neither yes nor no (true and false, 1 and 0 will do)")
		}
	}
	return w
}

// wanted decides whether the volume of a candidate with these wishes is backed
// up, and names the rule.
func (w wishes) wanted(c *Candidate) (bool, Rule) {
	switch {
	case c.Own:
		return false, RuleOwnNamespace
	case c.Leaving:
		return false, RuleLeaving
	case w[theVolume] != unsaid:
		return w[theVolume] == yes, RuleVolume
	case w[theNamespace] == no:
		return false, RuleNamespace
	case w[theClaim] != unsaid:
		return w[theClaim] == yes, RuleClaim
	case w[theNamespace] == yes:
		return true, RuleNamespace
	}
	return true, RuleDefault
}

// because is what a rule says about a volume, as the second half of a sentence.
func (r Rule) because(wanted bool) string {
	switch r {
	case RuleOwnNamespace:
		return "the claim is in the namespace that Ammonite itself runs in, which is never backed up"
	case RuleLeaving:
		return "the claim or its namespace is being deleted"
	case RuleVolume:
		if wanted {
			return "the volume's annotation backup=yes includes it, whatever namespace and claim say"
		}
		return "the volume's annotation backup=no excludes it, whatever namespace and claim say"
	case RuleNamespace:
		if wanted {
			return "the namespace's annotation backup=yes includes it, and the claim does not object"
		}
		return "the namespace's annotation backup=no excludes it; a claim cannot undo that"
	case RuleClaim:
		if wanted {
			return "the claim's annotation backup=yes includes it"
		}
		return "the claim's annotation backup=no excludes it"
	}
	return "no annotation says otherwise"
}
