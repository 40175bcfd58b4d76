package retention

import "github.com/ammonite-backup/ammonite/internal/backup"

// Setting is a policy and where it is from.
type Setting struct {
	Policy Policy `json:"policy"`
	// From is "claim", "namespace" or "configuration".
	From string `json:"from"`
	// Problems are values that are not understood and were passed over.
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is an annotation that is not understood.
type Problem struct {
	// On is "claim" or "namespace".
	On    string `json:"on"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// Choose returns the claim's policy, else the namespace's, else what is configured.
// The annotations are below the prefix; a value that is not understood is a problem
// and passed over.
func Choose(onClaim, onNamespace map[string]string, configured Policy) Setting {
	s := Setting{}
	for _, o := range []struct {
		name        string
		annotations map[string]string
	}{{"claim", onClaim}, {"namespace", onNamespace}} {
		value, present := o.annotations[backup.AnnotationRetention]
		if !present {
			continue
		}
		policy, err := ParsePolicy(value)
		if err != nil {
			s.Problems = append(s.Problems, Problem{On: o.name, Value: value, Why: err.Error()})
			continue
		}
		if s.From == "" {
			s.Policy, s.From = policy, o.name
		}
	}
	if s.From == "" {
		s.Policy, s.From = configured, "configuration"
	}
	return s
}
