package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// side is one of several ways to do the same work.
type side struct {
	name string
	// do does the work once and returns how long the part of it took that counts.
	do func(ctx context.Context) (time.Duration, error)
}

// pair does the work both ways, and returns the medians.
func (b *bench) pair(ctx context.Context, ours, bare side) (oursTook, bareTook time.Duration, err error) {
	took, err := b.medians(ctx, ours, bare)
	if err != nil {
		return 0, 0, err
	}
	return took[0], took[1], nil
}

// medians does the work in each way, in turn and taking turns in going first.
func (b *bench) medians(ctx context.Context, sides ...side) ([]time.Duration, error) {
	took := make([][]time.Duration, len(sides))
	for round := range b.rounds {
		for i := range sides {
			turn := (i + round) % len(sides)
			d, err := sides[turn].do(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", sides[turn].name, err)
			}
			took[turn] = append(took[turn], d)
			fmt.Fprintf(os.Stderr, "round %d  %-26s %s\n", round+1, sides[turn].name, d.Round(time.Millisecond))
		}
	}
	all := make([]time.Duration, len(sides))
	for i := range sides {
		all[i] = median(took[i])
	}
	return all, nil
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
