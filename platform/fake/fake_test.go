package fake_test

import (
	"testing"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/platform/fake"
	"loadline.dev/loadline/platform/platformtest"
	"loadline.dev/loadline/platform/storetest"
	"loadline.dev/loadline/serving"
)

func TestPlatformPasses(t *testing.T) {
	platformtest.Run(t, func(*testing.T) platformtest.Bench {
		p := &fake.Platform{StartDelay: time.Millisecond, DrainDelay: time.Millisecond}
		return platformtest.Bench{Platform: p, Patience: 10 * time.Second,
			Recipe: func(digest string) serving.Recipe { return serving.Recipe{Digest: digest} },
			Kill:   func(_ *testing.T, r serving.Replica) { p.Kill(r.ID) }}
	})
}

func TestStorePasses(t *testing.T) {
	storetest.Run(t, func(*testing.T) control.Store { return new(fake.Store) })
	storetest.RunDrawer(t, func(*testing.T) control.Drawer { return new(fake.Drawer) })
}
