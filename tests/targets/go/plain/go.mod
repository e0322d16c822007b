module exoprof.test/plain

go 1.19
