"""/auth/v1: as much of Supabase Auth as it takes to sign the hub's users in.

What is here answers as hosted Auth does; the rest answers 501 and names the feature.
"""
