package main

import "testing"

func TestSizesAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]int64{
		"100000000": 100_000_000, "65536k": 64 << 20, "512M": 512 << 20, "512MiB": 512 << 20, "512mb": 512 << 20, "2G": 2 << 30, "1T": 1 << 40,
	} {
		if got, err := bytesOf(text); err != nil || got != want {
			t.Errorf("%s is read as %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "-2G", "0", "1.5G", "1K", "9000000T", "2GG", "2P", "two"} {
		if got, err := bytesOf(text); err == nil {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}

func TestTimeoutsAreMoreThanNothing(t *testing.T) {
	for _, text := range []string{"", "0s", "-1s", "5", "soon"} {
		if d, err := positive(text); err == nil {
			t.Errorf("%q is read as %v", text, d)
		}
	}
}
