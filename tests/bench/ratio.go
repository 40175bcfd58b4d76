package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// side is one of two ways to do the same work.
type side struct {
	name string
	// do does the work once and returns how long the part of it took that counts.
	do func(ctx context.Context) (time.Duration, error)
}

// pair does the work both ways, in turn and taking turns in going first, and
// returns the medians.
func (b *bench) pair(ctx context.Context, ours, bare side) (oursTook, bareTook time.Duration, err error) {
	took := map[string][]time.Duration{}
	for round := range b.rounds {
		order := []side{ours, bare}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			d, err := s.do(ctx)
			if err != nil {
				return 0, 0, fmt.Errorf("%s: %w", s.name, err)
			}
			took[s.name] = append(took[s.name], d)
			fmt.Fprintf(os.Stderr, "round %d  %-24s %s\n", round+1, s.name, d.Round(time.Millisecond))
		}
	}
	return median(took[ours.name]), median(took[bare.name]), nil
}

func median[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// timed returns how long f took.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}

// report prints the line of a ratio. comparison is >= where more is better.
func report(name string, value float64, comparison string, goal float64) {
	fmt.Printf("ratio %s %.3f (goal %s %.2f)\n", name, value, comparison, goal)
}
