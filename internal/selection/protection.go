package selection

import "time"

// Protection says whether the volume could be given back at the given time as it
// recently was. That a backup is under way does not protect it: only one that is
// done does.
func (d Decision) Protection(p Policy, now time.Time) Protection {
	p = p.WithDefaults()
	switch {
	case d.State == Excluded:
		return Unwanted
	case d.State == Unsupported && d.PV == "":
		// There is no volume yet, so there is nothing to lose.
		return Awaited
	case d.State == Unsupported:
		return Impossible
	case d.LastBackup.IsZero():
		if now.After(d.regularDue(p).Add(p.Period.Std())) {
			return Never
		}
		return Awaited
	case now.After(d.LastBackup.Add((d.Interval.Value + p.Period).Std())):
		return Late
	}
	return Protected
}
