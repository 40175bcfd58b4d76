package selection

import (
	"fmt"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// advice writes the commands that would change the decision.
func (e explanation) advice() {
	d := e.d
	if d.Own || d.Leaving {
		e.line("to change", "nothing would")
		return
	}
	heading := "to change"
	tell := func(what, command string) {
		e.line(heading, "%s", what)
		e.line("", "  %s", command)
		heading = ""
	}
	for _, a := range d.reversals() {
		tell(a.what, e.annotate(a.on, backup.AnnotationBackup, a.value))
	}
	for _, o := range objects {
		for _, p := range d.Problems {
			if p.On == o.title(&d.Candidate) {
				tell(fmt.Sprintf("remove what is wrong on %s:", p.On), e.annotate(o, p.Annotation, ""))
			}
		}
	}
	if d.State == Young {
		tell("wait no longer for its first backup:", e.annotate(theClaim, backup.AnnotationGrace, "0s"))
	}
	if d.Wanted && d.State != Unsupported {
		tell("back it up more or less often, every 12 hours for example:", e.annotate(theClaim, backup.AnnotationInterval, "12h"))
		tell("back it up now; each new value does:", e.annotate(theClaim, backup.AnnotationBackupNow, "$(date +%s)"))
	}
}

// annotate is the command that sets an annotation, or removes it if the value is
// empty.
func (e explanation) annotate(o object, annotation, value string) string {
	target, name := o.target(&e.d.Candidate), e.prefix+annotation
	if value == "" {
		return fmt.Sprintf("kubectl annotate %s %s-", target, name)
	}
	overwrite := ""
	if _, present := o.annotations(&e.d.Candidate)[annotation]; present {
		overwrite = " --overwrite"
	}
	return fmt.Sprintf("kubectl annotate %s%s %s=%s", target, overwrite, name, value)
}

// reversal is a backup annotation that would turn the decision round: a new value,
// or none.
type reversal struct {
	what  string
	on    object
	value string
}

// reversals finds, by asking the rules, which single annotations would make a
// volume wanted that is not, and the other way round.
func (d *Decision) reversals() (found []reversal) {
	value, verb := yes, "include"
	if d.Wanted {
		value, verb = no, "exclude"
	}
	asked := Decision{Candidate: d.Candidate}
	said := asked.readWishes()
	for _, o := range objects {
		if !o.exists(&d.Candidate) {
			continue
		}
		turns := func(t tristate) bool {
			w := said
			w[o] = t
			wanted, _ := w.wanted(&d.Candidate)
			return wanted != d.Wanted
		}
		if said[o] != unsaid && turns(unsaid) {
			found = append(found, reversal{fmt.Sprintf("%s it, by what the others say:", verb), o, ""})
		}
		if turns(value) {
			found = append(found, reversal{scope(verb, o), o, value.String()})
		}
	}
	return found
}

func scope(verb string, o object) string {
	switch o {
	case theVolume:
		return verb + " it, whatever namespace and claim say:"
	case theNamespace:
		return verb + " it and the other claims of the namespace, unless one is decided by something stronger:"
	}
	return verb + " it:"
}
