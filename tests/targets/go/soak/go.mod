module exoprof.test/soak

go 1.19
