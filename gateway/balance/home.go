package balance

// Home is which of some gateways a key lives at: the same for whoever asks, in
// whatever order it lists them. When one comes or goes, only keys move that it
// gets or had.
//
// This is rendezvous hashing: D. Thaler, C. Ravishankar, "Using name-based
// mappings to increase hit rates", IEEE/ACM Transactions on Networking 6 (1998).
func Home(key string, gateways []string) string {
	best, most := "", uint64(0)
	for _, g := range gateways {
		if w := weigh(g, key); best == "" || w > most || w == most && g < best {
			best, most = g, w
		}
	}
	return best
}

// weigh hashes a pair: FNV-1a, whose last bits are well mixed and whose first
// are not, and behind it the finalizer of splitmix64 (Steele, Lea, Flood, 2014).
func weigh(gateway, key string) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for _, s := range [...]string{gateway, "\x00", key} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
