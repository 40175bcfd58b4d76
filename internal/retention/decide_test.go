package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

func good(times ...string) (backups []Backup) {
	for _, s := range times {
		backups = append(backups, Backup{ID: s, Time: at(s)})
	}
	return backups
}

// kept are the IDs that stay, and why.
func kept(verdicts []Verdict) map[string][]string {
	all := map[string][]string{}
	for _, d := range verdicts {
		if d.Keep {
			all[d.ID] = d.Reasons
		}
	}
	return all
}

var now = at("2026-05-10 12:00")

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy string
		of     []Backup
		want   map[string][]string
	}{
		{"the newest of each day", "2d", good("2026-05-08 10:00", "2026-05-09 10:00", "2026-05-09 11:00", "2026-05-10 10:00"),
			map[string][]string{"2026-05-10 10:00": {"daily", "the last good backup"}, "2026-05-09 11:00": {"daily"}}},
		{"days without a backup do not count", "2d", good("2026-01-01 10:00", "2026-03-01 10:00", "2026-05-01 10:00"),
			map[string][]string{"2026-05-01 10:00": {"daily", "the last good backup"}, "2026-03-01 10:00": {"daily"}}},
		{"the oldest while something is left", "9m", good("2026-05-01 10:00", "2026-05-02 10:00", "2026-05-03 10:00"),
			map[string][]string{"2026-05-03 10:00": {"monthly", "the last good backup"}, "2026-05-01 10:00": {"oldest of monthly"}}},
		{"many within an hour are one", "last=2", good("2026-05-09 10:00", "2026-05-10 10:01", "2026-05-10 10:02", "2026-05-10 10:59"),
			map[string][]string{"2026-05-09 10:00": {"last"}, "2026-05-10 10:01": {"last"}, "2026-05-10 10:02": {"last"}, "2026-05-10 10:59": {"last", "the last good backup"}}},
		{"within, seen from the newest", "within=2d", good("2026-04-27 10:00", "2026-04-28 10:01", "2026-04-30 10:00"),
			map[string][]string{"2026-04-30 10:00": {"within 2d", "the last good backup"}, "2026-04-28 10:01": {"within 2d"}}},
		{"week 53", "2w", good("2020-12-27 10:00", "2020-12-31 10:00", "2021-01-03 10:00", "2021-01-04 10:00"),
			map[string][]string{"2021-01-04 10:00": {"weekly", "the last good backup"}, "2021-01-03 10:00": {"weekly"}}},
		{"leap day", "within=1y", good("2023-02-28 10:00", "2023-03-01 10:01", "2024-02-29 10:00"),
			map[string][]string{"2024-02-29 10:00": {"within 1y", "the last good backup"}, "2023-03-01 10:01": {"within 1y"}}},
		{"all", "all", good("2001-01-01 00:00", "2026-05-09 10:00"),
			map[string][]string{"2001-01-01 00:00": {"all"}, "2026-05-09 10:00": {"all", "the last good backup"}}},
		{"held", "1d", []Backup{{ID: "old", Time: at("2020-01-01 00:00"), Held: true}, {ID: "new", Time: at("2026-05-09 10:00")}},
			map[string][]string{"old": {"held"}, "new": {"daily", "the last good backup"}}},
		{"partial ones are none", "1d", []Backup{{ID: "good", Time: at("2026-05-01 00:00")}, {ID: "partial", Time: at("2026-05-09 10:00"), Partial: true}, {ID: "before", Time: at("2026-04-01 00:00"), Partial: true}},
			map[string][]string{"good": {"daily", "the last good backup"}, "partial": {"partial, with no good backup after it"}}},
		{"nothing but partial ones", "1d", []Backup{{ID: "a", Time: at("2026-05-01 00:00"), Partial: true}, {ID: "b", Time: at("2026-05-09 10:00"), Partial: true}},
			map[string][]string{"a": {"partial, with no good backup after it"}, "b": {"partial, with no good backup after it"}}},
		{"the future displaces nothing", "1d", []Backup{{ID: "good", Time: at("2026-05-01 00:00")}, {ID: "future", Time: at("2026-06-01 00:00")}},
			map[string][]string{"good": {"daily", "the last good backup"}, "future": {"its time lies in the future"}}},
		{"nor does what was dated", "1d", []Backup{
			{ID: "good", Time: at("2026-05-01 00:00"), Made: at("2026-05-01 03:00")},
			{ID: "back", Time: at("2026-05-01 23:59"), Made: at("2026-05-20 00:00")},
			{ID: "ahead", Time: at("2026-05-09 00:00"), Made: at("2026-05-08 00:00")},
		}, map[string][]string{
			"good": {"daily", "the last good backup"}, "back": {"its time is long before it was made, 2026-05-20T00:00:00Z"},
			"ahead": {"its time is later than when it was made, 2026-05-08T00:00:00Z"},
		}},
		{"clocks half an hour apart", "1d", []Backup{{ID: "a", Time: at("2026-05-10 12:31"), Made: at("2026-05-10 12:00")}, {ID: "b", Time: at("2026-05-10 12:00")}},
			map[string][]string{"a": {"daily", "the last good backup"}}},
		{"no policy keeps the last good one", "", good("2026-05-01 10:00", "2026-05-02 10:00"),
			map[string][]string{"2026-05-02 10:00": {"the last good backup"}}},
		{"nothing", "1d", nil, map[string][]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Policy
			require.NoError(t, p.UnmarshalText([]byte(c.policy)))
			verdicts := Decide(Volume{Policy: p, Backups: c.of}, Options{Now: now})
			require.Equal(t, c.want, kept(verdicts))
			for _, d := range verdicts {
				require.NotEmpty(t, d.Reasons)
			}
		})
	}
}

func TestDaysAreThoseOfTheZone(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	// By UTC, two days; in Berlin, where it is summer until the 25th, one.
	backups := good("2026-10-23 22:30", "2026-10-24 21:30")
	v := Volume{Policy: Policy{Daily: 1}, Backups: append(good("2026-10-01 00:00"), backups...)}
	require.Len(t, kept(Decide(v, Options{Now: at("2026-11-01 00:00"), Zone: zone})), 1)
	v.Policy.Daily = 2
	require.Equal(t, map[string][]string{"2026-10-24 21:30": {"daily", "the last good backup"}, "2026-10-01 00:00": {"daily"}},
		kept(Decide(v, Options{Now: at("2026-11-01 00:00"), Zone: zone})))
	require.Contains(t, kept(Decide(v, Options{Now: at("2026-11-01 00:00")})), "2026-10-23 22:30")
	// The hour that comes twice is two hours by the clock's offset only: one by its
	// reading, as restic has it.
	v = Volume{Policy: Policy{Hourly: 1}, Backups: good("2026-10-25 00:30", "2026-10-25 01:30", "2026-10-24 00:30")}
	require.Equal(t, map[string][]string{"2026-10-25 01:30": {"hourly", "the last good backup"}}, kept(Decide(v, Options{Now: at("2026-11-01 00:00"), Zone: zone})))
}

func TestMissingClaim(t *testing.T) {
	o := Options{Now: now, MissingFor: DefaultMissingFor}
	v := Volume{Policy: Policy{Daily: 1}, Backups: append(good("2026-01-01 00:00", "2026-01-02 00:00"), Backup{ID: "held", Time: at("2025-01-01 00:00"), Held: true})}
	v.Missing = now.Add(-89 * 24 * time.Hour)
	require.Equal(t, map[string][]string{"2026-01-02 00:00": {"daily", "the last good backup"}, "held": {"held"}}, kept(Decide(v, o)))
	v.Missing = now.Add(-91 * 24 * time.Hour)
	verdicts := Decide(v, o)
	require.Equal(t, map[string][]string{"held": {"held"}}, kept(verdicts))
	require.Equal(t, []string{"the claim has been missing since 2026-02-08T12:00:00Z, longer than 2160h"}, verdicts[0].Reasons)
}

// oracle says which of good backups, the newest first, a policy keeps. It asks each
// rule by itself what its periods are.
func oracle(p Policy, backups []Backup, zone *time.Location) map[string]bool {
	keep := map[string]bool{}
	if len(backups) == 0 {
		return keep
	}
	oldest := backups[len(backups)-1].ID
	keep[backups[0].ID] = true
	for layout, n := range map[string]int{"2006-01-02T15": p.Hourly, "2006-01-02": p.Daily, "week": p.Weekly, "2006-01": p.Monthly, "2006": p.Yearly, "last": p.Last} {
		newest, order := map[string][]string{}, []string{}
		for _, b := range backups {
			local := b.Time.In(zone)
			period := local.Format(layout)
			switch layout {
			case "week":
				// The ISO week is that of its Thursday.
				thursday := local.AddDate(0, 0, 3-(int(local.Weekday())+6)%7)
				period = fmt.Sprint(thursday.Year(), (thursday.YearDay()-1)/7)
			case "last":
				period = local.Format("2006-01-02T15")
			}
			if newest[period] == nil {
				order = append(order, period)
			}
			newest[period] = append(newest[period], b.ID)
		}
		for _, period := range order[:min(n, len(order))] {
			keep[newest[period][0]] = true
			if layout == "last" {
				for _, id := range newest[period] {
					keep[id] = true
				}
			}
		}
		if n > len(order) {
			keep[oldest] = true
		}
	}
	for _, b := range backups {
		local, newest := b.Time.In(zone), backups[0].Time.In(zone)
		if p.All || p.Within != (Span{}) && local.After(newest.AddDate(-p.Within.Years, -p.Within.Months, -p.Within.Days).Add(-time.Duration(p.Within.Hours)*time.Hour)) {
			keep[b.ID] = true
		}
	}
	return keep
}

func randomPolicy(r *rand.Rand) (p Policy) {
	for _, rule := range rules {
		if r.IntN(3) == 0 {
			*rule.of(&p) = 1 + r.IntN(12)
		}
	}
	if r.IntN(4) == 0 {
		p.Within = Span{r.IntN(2), r.IntN(4), r.IntN(40), r.IntN(50)}
	}
	return p
}

// history is years of backups with gaps, bursts and jumps of the clock.
func history(r *rand.Rand) (backups []Backup) {
	t := at("2019-12-01 00:00").Add(time.Duration(r.IntN(1e6)) * time.Second)
	step := []time.Duration{time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}[r.IntN(4)]
	for i := range 5 + r.IntN(200) {
		switch r.IntN(20) {
		case 0:
			t = t.AddDate(0, r.IntN(5), r.IntN(40))
		case 1:
			t = t.Add(-time.Duration(r.IntN(90)) * time.Minute)
		default:
			t = t.Add(step + time.Duration(r.IntN(int(step))) - step/2)
		}
		backups = append(backups, Backup{ID: fmt.Sprintf("%05d", i), Time: t})
	}
	return backups
}

func TestDecideAgainstAnOracle(t *testing.T) {
	var zones []*time.Location
	for _, name := range []string{"UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe"} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		zones = append(zones, zone)
	}
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, zone := randomPolicy(r), zones[r.IntN(len(zones))]
		backups := history(r)
		o := Options{Now: at("2060-01-01 00:00"), Zone: zone}
		verdicts := Decide(Volume{Policy: p, Backups: backups}, o)
		sorted := make([]Backup, len(verdicts))
		for i, d := range verdicts {
			sorted[i] = d.Backup
		}
		require.True(t, slices.IsSortedFunc(sorted, func(a, b Backup) int { return b.Time.Compare(a.Time) }))
		want, got := oracle(p, sorted, zone), map[string]bool{}
		for id := range kept(verdicts) {
			got[id] = true
		}
		require.Equal(t, want, got, "seed %d, policy %s in %s", seed, p, zone)
		requireUndisturbed(t, r, p, backups, o, verdicts)
	}
}

// requireUndisturbed requires that nothing is removed because of backups that do not
// count, and that deciding again about what is left removes nothing more.
func requireUndisturbed(t *testing.T, r *rand.Rand, p Policy, backups []Backup, o Options, before []Verdict) {
	t.Helper()
	more := slices.Clone(backups)
	for i := range 20 {
		b := Backup{ID: fmt.Sprintf("x%d", i), Time: backups[r.IntN(len(backups))].Time.Add(time.Duration(r.IntN(1e5)) * time.Second)}
		switch r.IntN(3) {
		case 0:
			b.Partial = true
		case 1:
			b.Made = b.Time.AddDate(1, 0, 0)
		default:
			b.Time = o.Now.AddDate(0, 1, i)
		}
		more = append(more, b)
	}
	after := kept(Decide(Volume{Policy: p, Backups: more}, o))
	var left []Backup
	for _, d := range before {
		if d.Keep {
			require.Contains(t, after, d.ID)
			left = append(left, d.Backup)
		}
	}
	require.Len(t, kept(Decide(Volume{Policy: p, Backups: left}, o)), len(left), "policy %s", p)
}

func TestRefusal(t *testing.T) {
	old, young := now.Add(-72*time.Hour), now.Add(-time.Hour)
	tally := func(volumes, keepOld, removeOld, removeYoung int) (sum Tally) {
		for v := range volumes {
			var verdicts []Verdict
			add := func(n int, at time.Time, keep bool) {
				for i := range n {
					if i%volumes == v {
						verdicts = append(verdicts, Verdict{Backup: Backup{Time: at}, Keep: keep})
					}
				}
			}
			add(keepOld, old, true)
			add(removeOld, old, false)
			add(removeYoung, young, false)
			sum.Add(verdicts, now)
		}
		return sum
	}
	require.Equal(t, Tally{Volumes: 2, Backups: 13, Keep: 6, Remove: 7, Settled: 10, SettledRemove: 4}, tally(2, 6, 4, 3))
	require.Empty(t, tally(2, 75, 25, 0).Refusal(0.25))
	require.Equal(t, "26 of 100 backups that are older than two days would be removed, more than 25 %", tally(2, 74, 26, 0).Refusal(0.25))
	require.Empty(t, tally(2, 74, 26, 0).Refusal(0.3))
	require.Empty(t, tally(3, 1, 3, 0).Refusal(0.25), "one of each volume is what a day brings")
	require.NotEmpty(t, tally(3, 1, 4, 0).Refusal(0.25))
	require.Empty(t, tally(1, 10, 0, 1000).Refusal(0.25), "the young ones go in bulk every day")
	require.Empty(t, Tally{}.Refusal(0.25))
}
