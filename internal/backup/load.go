package backup

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

// Load is what a Ceph cluster has to do besides serving backups.
type Load struct {
	// SlowOps counts the operations that clients wait for unduly long.
	SlowOps int `json:"slowOps,omitempty"`
	// NearFull and Full name what has little or no room left, such as "pool rbd" and
	// "osd.3", or "the cluster" where Ceph does not say. What is in one is not in the
	// other.
	NearFull []string `json:"nearFull,omitempty"`
	Full     []string `json:"full,omitempty"`
	// Recovering is the part of all copies of objects that are missing or not where
	// they belong, from 0 to 1.
	Recovering float64 `json:"recovering,omitempty"`
}

// LoadLimits say from which Load on a cluster is spared. The zero value stands for
// the defaults.
type LoadLimits struct {
	// SlowOps is how many slow operations are put up with.
	SlowOps int `json:"slowOps,omitempty"`
	// Recovering is which part of the objects may be in recovery: 0.1 is a tenth, and
	// 1 puts up with any.
	Recovering float64 `json:"recovering,omitempty"`
	// HeldBackTo is how many volumes may be worked on at once while a cluster is
	// spared: a cluster that is nearly full for weeks needs backups, too. Negative
	// for none.
	HeldBackTo int `json:"heldBackTo,omitempty"`
}

// The defaults of LoadLimits.
const (
	DefaultLoadRecovering = 0.1
	DefaultLoadHeldBackTo = 1
)

// WithDefaults returns l with the defaults in place of zeros.
func (l LoadLimits) WithDefaults() LoadLimits {
	return LoadLimits{
		SlowOps:    l.SlowOps,
		Recovering: cmp.Or(l.Recovering, DefaultLoadRecovering),
		HeldBackTo: cmp.Or(l.HeldBackTo, DefaultLoadHeldBackTo),
	}
}

// Validate returns an InvalidInput failure for values that make no sense.
func (l LoadLimits) Validate() error {
	if l.SlowOps < 0 {
		return Fail(InvalidInput, fmt.Sprintf("slowOps is %d", l.SlowOps), "Give how many slow operations are put up with, or nothing for none.", nil)
	}
	if !(l.Recovering >= 0 && l.Recovering <= 1) {
		return Fail(InvalidInput, fmt.Sprintf("recovering is %v", l.Recovering), "Give a part from 0 to 1, such as 0.1 for a tenth.", nil)
	}
	return nil
}

// Check says in a sentence, without a full stop, why a cluster with that load is
// spared, the worst first; empty when it is not.
func (l LoadLimits) Check(load Load) string {
	l = l.WithDefaults()
	switch {
	case len(load.Full) > 0:
		return are(load.Full) + " full"
	case load.SlowOps > l.SlowOps:
		if load.SlowOps == 1 {
			return "1 operation is slow"
		}
		return fmt.Sprintf("%d operations are slow", load.SlowOps)
	case len(load.NearFull) > 0:
		return are(load.NearFull) + " nearly full"
	case load.Recovering > l.Recovering:
		return fmt.Sprintf("%.0f%% of the objects are in recovery", math.Floor(100*load.Recovering))
	}
	return ""
}

// are begins a sentence about a few of the names.
func are(names []string) string {
	const few = 3
	if len(names) == 1 {
		return names[0] + " is"
	}
	shown, last := names[:len(names)-1], names[len(names)-1]
	if len(names) > few {
		shown, last = names[:few], fmt.Sprintf("%d more", len(names)-few)
	}
	return strings.Join(shown, ", ") + " and " + last + " are"
}
