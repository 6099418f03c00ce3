"""The local stack: a Supabase project's services on one loopback port, for development and tests."""
