package selection

import (
	"strings"
	"unicode/utf8"
)

// object is one of the three that carry annotations about a volume.
type object int

const (
	theVolume object = iota
	theNamespace
	theClaim
)

// objects are in the order in which their backup annotations are asked.
var objects = [...]object{theVolume, theNamespace, theClaim}

func (o object) String() string { return [...]string{"volume", "namespace", "claim"}[o] }

func (o object) annotations(c *Candidate) Annotations {
	switch o {
	case theVolume:
		return c.OnVolume
	case theNamespace:
		return c.OnNamespace
	}
	return c.OnClaim
}

// exists is false for the volume of a claim that is bound to none.
func (o object) exists(c *Candidate) bool { return o != theVolume || c.PV != "" }

// title is how people are told about the object.
func (o object) title(c *Candidate) string {
	switch o {
	case theVolume:
		return o.String() + " " + c.PV
	case theNamespace:
		return o.String() + " " + c.Claim.Namespace
	}
	return o.String() + " " + c.Claim.String()
}

// target is what kubectl calls the object.
func (o object) target(c *Candidate) string {
	switch o {
	case theVolume:
		return "pv " + c.PV
	case theNamespace:
		return "namespace " + c.Claim.Namespace
	}
	return "--namespace " + c.Claim.Namespace + " pvc " + c.Claim.Name
}

// longestValue bounds what a problem repeats of a value: Kubernetes allows
// annotations of 256 KiB.
const longestValue = 64

func (d *Decision) problem(o object, annotation, value, why string) {
	if len(value) > longestValue {
		cut := longestValue
		for cut > 0 && !utf8.RuneStart(value[cut]) {
			cut--
		}
		value = value[:cut] + "…"
	}
	d.Problems = append(d.Problems, Problem{On: o.title(&d.Candidate), Annotation: annotation, Value: strings.ToValidUTF8(value, "?"), Why: why})
}
